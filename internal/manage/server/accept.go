package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/config"
)

// maxSeq is the last number that {seq} may have.
const maxSeq = 99_999

// accepting lets one machine at a time become a node by a rule: two may not get the same name.
type accepting struct{ mu sync.Mutex }

// acceptByRule makes a machine that reported itself a node, where a rule of the configuration says so.
func (s *Server) acceptByRule(ctx context.Context, id string) (node.Name, bool) {
	s.accepting.mu.Lock()
	defer s.accepting.mu.Unlock()
	f, ok := s.found.get(id)
	if !ok || f.Hardware == nil {
		return "", false
	}
	for i, rule := range s.cfg.Accept {
		if !fits(rule, f) {
			continue
		}
		name, err := s.byRule(ctx, f, rule, fmt.Sprintf(", by rule %d of accept", i+1))
		if err == nil {
			s.log.Info("a discovered machine is a node now", "node", name, "mac", f.MAC, "rule", i+1)
			return name, true
		}
		note := fmt.Sprintf("rule %d of accept fits, and does not make it a node: %v", i+1, err)
		if f.Note != note {
			s.log.Warn(note, "mac", f.MAC)
			s.found.note(f.MAC, note)
		}
		return "", false
	}
	s.found.note(f.MAC, "")
	return "", false
}

// byRule names a machine and accepts it.
func (s *Server) byRule(ctx context.Context, f api.Discovered, rule config.Accept, why string) (node.Name, error) {
	values := machineValues(f)
	pattern := rule.Name
	for serial, name := range rule.Names {
		if strings.EqualFold(serial, f.Hardware.Serial) {
			pattern = name
		}
	}
	all, err := s.db.Nodes(ctx)
	if err != nil {
		return "", err
	}
	taken := map[node.Name]bool{}
	for _, n := range all {
		taken[n.Name] = true
	}
	var name node.Name
	for seq := 1; ; seq++ {
		values["seq"] = fmt.Sprint(seq)
		text, err := config.Fill(pattern, values)
		if err != nil {
			return "", err
		}
		name = node.Name(text)
		switch {
		case !node.IsName(text):
			return "", fmt.Errorf("%q is no name of a node", text)
		case !taken[name]:
		case strings.Contains(pattern, "{seq") && seq < maxSeq:
			continue
		default:
			return "", fmt.Errorf("there is a node %s already", name)
		}
		break
	}
	set := map[string]string{}
	if rule.BMC == "reported" && f.Hardware.BMC != nil && f.Hardware.BMC.Addr != "" {
		set["bmc"] = "ipmi://" + f.Hardware.BMC.Addr
	}
	for key, value := range rule.Set {
		if set[key], err = config.Fill(value, values); err != nil {
			return "", fmt.Errorf("%s: %w", key, err)
		}
	}
	if err := s.accept(ctx, f, name, set, why); err != nil {
		var e *api.Error
		if errors.As(err, &e) {
			return "", errors.New(e.Message)
		}
		return "", err
	}
	return name, nil
}

// fits tells whether the conditions of a rule hold for a machine.
func fits(rule config.Accept, f api.Discovered) bool {
	h := f.Hardware
	if len(rule.Names) > 0 && !slices.ContainsFunc(slices.Collect(maps.Keys(rule.Names)), func(s string) bool { return strings.EqualFold(s, h.Serial) }) {
		return false
	}
	any := func(patterns []string, value string) bool {
		return len(patterns) == 0 || value != "" && slices.ContainsFunc(patterns, func(p string) bool { return like(p, value) })
	}
	if !any(rule.Serials, h.Serial) || !any(rule.MACs, f.MAC) {
		return false
	}
	if rule.Switch == "" && rule.Port == "" {
		return true
	}
	w := switchOf(f)
	return w != nil && (rule.Switch == "" || like(rule.Switch, w.Name) || like(rule.Switch, w.Chassis)) &&
		(rule.Port == "" || like(rule.Port, w.Port) || like(rule.Port, w.PortDescription))
}

// switchOf is where the card that a machine booted from is plugged in; nil where that was not heard.
func switchOf(f api.Discovered) *api.HardwareSwitch {
	if f.Hardware == nil {
		return nil
	}
	for _, n := range f.Hardware.NICs {
		if strings.EqualFold(n.MAC, f.MAC) && n.Switch != nil {
			return n.Switch
		}
	}
	return nil
}

// like tells whether a value is as a pattern, in which * stands for any characters.
func like(pattern, value string) bool {
	parts := strings.Split(pattern, "*")
	for i, p := range parts {
		parts[i] = regexp.QuoteMeta(p)
	}
	re, err := regexp.Compile(`(?is)^` + strings.Join(parts, ".*") + `$`)
	return err == nil && value != "" && re.MatchString(value)
}

var (
	lastNumber = regexp.MustCompile(`(\d+)\D*$`)
	notInName  = regexp.MustCompile(`[^a-z0-9]+`)
)

// machineValues is what names are made of, but for seq.
func machineValues(f api.Discovered) map[string]string {
	hex := strings.ReplaceAll(f.MAC, ":", "")
	v := map[string]string{"mac": hex[max(0, len(hex)-6):]}
	if w := switchOf(f); w != nil {
		if m := lastNumber.FindStringSubmatch(w.Port); m != nil {
			if v["port"] = strings.TrimLeft(m[1], "0"); v["port"] == "" {
				v["port"] = "0"
			}
		}
	}
	if serial := strings.Trim(notInName.ReplaceAllString(strings.ToLower(f.Hardware.Serial), "-"), "-"); serial != "" {
		v["serial"] = serial
	}
	return v
}
