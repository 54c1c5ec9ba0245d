package config

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"mimeo/internal/cluster/node"
)

// Accept is a rule by which a machine that was discovered becomes a node. All conditions that it has must hold.
type Accept struct {
	Serials []string          `yaml:"serials"`
	Names   map[string]string `yaml:"names"`  // serial number to name; in place of Serials and Name
	MACs    []string          `yaml:"macs"`   // of the card that it booted from
	Switch  string            `yaml:"switch"` // name or chassis ID, by LLDP
	Port    string            `yaml:"port"`   // ID or description
	Name    string            `yaml:"name"`   // of the node, with {seq}, {port}, {serial} and {mac}
	Set     map[string]string `yaml:"set"`    // as for mimeo node set, with the same
	BMC     string            `yaml:"bmc"`    // reported, ask
}

// placeholder is one of a name: what, and how many digits.
var placeholder = regexp.MustCompile(`\{([a-z]*)(?::(\d*))?\}`)

// most is how many digits a number in a name is given at most.
const mostDigits = 9

// Fill puts values in the place of placeholders. Numbers get zeros in front; the others are as they are.
func Fill(pattern string, values map[string]string) (string, error) {
	var wrong error
	out := placeholder.ReplaceAllStringFunc(pattern, func(p string) string {
		m := placeholder.FindStringSubmatch(p)
		v, ok := values[m[1]]
		if !ok {
			wrong = fmt.Errorf("the machine has no {%s}", m[1])
			return ""
		}
		if digits, err := strconv.Atoi(m[2]); err == nil && digits > len(v) && (m[1] == "seq" || m[1] == "port") {
			v = strings.Repeat("0", digits-len(v)) + v
		}
		return v
	})
	return out, wrong
}

// checkAccept checks rules. What keys mean is the inventory's to say.
func (c *Config) checkAccept() error {
	for i := range c.Accept {
		a := &c.Accept[i]
		key := fmt.Sprintf("accept[%d].", i)
		def(&a.BMC, "ask")
		switch {
		case a.BMC != "ask" && a.BMC != "reported":
			return c.wrong(key+"bmc", "%q: want ask or reported", a.BMC)
		case len(a.Names) > 0 && (a.Name != "" || len(a.Serials) > 0):
			return c.wrong(key+"names", "stands in place of name and serials")
		case len(a.Names) == 0 && a.Name == "":
			return c.wrong(key+"name", "is missing")
		case len(a.Names) == 0 && len(a.Serials) == 0 && len(a.MACs) == 0 && a.Switch == "" && a.Port == "":
			return c.wrong(key+"name", `there is no condition; macs: ["*"] means any machine`)
		}
		for _, serial := range slices.Sorted(maps.Keys(a.Names)) {
			if serial == "" || !node.IsName(a.Names[serial]) {
				return c.wrong(key+"names", "%q: %q is no name of a node", serial, a.Names[serial])
			}
		}
		for _, p := range append([]string{a.Name}, slices.Sorted(maps.Values(a.Set))...) {
			if err := checkPattern(p); err != nil {
				return c.wrong(key+"name", "%q: %v", p, err)
			}
		}
		if sample, _ := Fill(a.Name, map[string]string{"seq": "1", "port": "1", "serial": "s", "mac": "0a0b0c"}); a.Name != "" && !node.IsName(sample) {
			return c.wrong(key+"name", "%q: %q is no name of a node", a.Name, sample)
		}
		if _, ok := a.Set["mac"]; ok {
			return c.wrong(key+"set", "mac is what the machine says")
		}
	}
	return nil
}

func checkPattern(p string) error {
	for _, m := range placeholder.FindAllStringSubmatch(p, -1) {
		if digits, err := strconv.Atoi(m[2]); m[2] != "" && (err != nil || digits > mostDigits || m[1] == "serial" || m[1] == "mac") {
			return fmt.Errorf("%s: numbers have at most %d digits, others none", m[0], mostDigits)
		}
		if !slices.Contains([]string{"seq", "port", "serial", "mac"}, m[1]) {
			return fmt.Errorf("%s: known are {seq}, {port}, {serial} and {mac}", m[0])
		}
	}
	if strings.ContainsAny(placeholder.ReplaceAllString(p, ""), "{}") {
		return fmt.Errorf("a brace is alone")
	}
	return nil
}
