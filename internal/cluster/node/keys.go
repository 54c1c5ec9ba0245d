package node

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// KeyPassword is the key of the BMC's password. It can be said like any other; what it is is never given out.
const KeyPassword = "bmc.password"

// LabelPrefix begins the keys of labels.
const LabelPrefix = "label."

// Values are what was said of a node or a group: values by key, none empty, in the form that Check gives them.
type Values map[string]string

// key is one thing that can be said of a node.
type key struct {
	name    string
	group   bool // can be said of a group
	pattern bool // of a group, it may hold {name} and {n}
	each    bool // of a group, it must, as no two nodes may have the same
	check   func(string) (string, error)
	get     func(*Node) string // "" where it is not set
	put     func(*Node, string)
	none    string // what holds where nothing is said
}

func text(p func(*Node) *string) (get func(*Node) string, put func(*Node, string)) {
	return func(n *Node) string { return *p(n) }, func(n *Node, v string) { *p(n) = v }
}

func plain(name string, none string, check func(string) (string, error), p func(*Node) *string) key {
	get, put := text(p)
	return key{name: name, group: true, check: check, get: get, put: put, none: none}
}

func with(k key, change func(*key)) key {
	change(&k)
	return k
}

// keys are all keys but labels and the password, in the order in which they are shown.
var keys = []key{
	{name: "groups", check: checkGroups, get: func(n *Node) string { return strings.Join(n.Groups, ",") }, put: func(n *Node, v string) { n.Groups = List(v) }},
	{name: "mac", check: checkMACs, get: macs, put: putMACs},
	{name: "ip", check: checkIPs, get: ips, put: putIPs, none: "from the pool"},
	with(plain("bmc", "manual:", checkBMC, func(n *Node) *string { return &n.BMC.URL }), func(k *key) { k.pattern, k.each = true, true }),
	plain("bmc.user", "", checkText, func(n *Node) *string { return &n.BMC.User }),
	{name: "bmc.insecure", group: true, check: checkBool, none: "false",
		get: func(n *Node) string { return orNothing(n.BMC.Insecure, "true") }, put: func(n *Node, v string) { n.BMC.Insecure = v == "true" }},
	{name: "bmc.cipher_suite", group: true, check: oneOf("0", "3", "17"), none: "17, then 3",
		get: func(n *Node) string { return orNothing(n.BMC.CipherSuite != 0, strconv.Itoa(n.BMC.CipherSuite)) }, put: func(n *Node, v string) { n.BMC.CipherSuite, _ = strconv.Atoi(v) }},
	plain("arch", "", oneOf(string(AMD64), string(ARM64), string(PPC64EL)), func(n *Node) *string { return (*string)(&n.Arch) }),
	plain("firmware", "", oneOf(string(BIOS), string(UEFI), string(UEFIHTTP), string(OpenFirmware), string(OPAL)), func(n *Node) *string { return (*string)(&n.Firmware) }),
	plain("profile", "imaging", checkText, func(n *Node) *string { return &n.Profile }),
	with(plain("hostname", "the node's name", checkHostname, func(n *Node) *string { return &n.Hostname }), func(k *key) { k.pattern, k.each = true, true }),
	with(plain("disk.serial", "", checkText, func(n *Node) *string { return &n.Disk.Serial }), func(k *key) { k.group = false }),
	with(plain("disk.wwn", "", checkText, func(n *Node) *string { return &n.Disk.WWN }), func(k *key) { k.group = false }),
	plain("disk.bus", "", oneOf("nvme", "sata", "scsi", "virtio", "usb", "mmc"), func(n *Node) *string { return &n.Disk.Bus }),
	plain("disk.by_path", "", checkText, func(n *Node) *string { return &n.Disk.ByPath }),
	bytes("disk.min_size", func(n *Node) *int64 { return &n.Disk.MinSize }),
	bytes("disk.max_size", func(n *Node) *int64 { return &n.Disk.MaxSize }),
	plain("knobs.disk_boot", "what suits the firmware", oneOf("sanboot", "exit"), func(n *Node) *string { return &n.Knobs.DiskBoot }),
	plain("knobs.loader", "iPXE", oneOf("own", "shim"), func(n *Node) *string { return &n.Knobs.Loader }),
	plain("knobs.nvram", "on", oneOf("on", "off"), func(n *Node) *string { return &n.Knobs.NVRAM }),
	plain("knobs.console", "", checkConsole, func(n *Node) *string { return &n.Knobs.Console }),
	with(plain("knobs.cmdline", "", checkText, func(n *Node) *string { return &n.Knobs.Cmdline }), func(k *key) { k.pattern = true }),
}

func bytes(name string, p func(*Node) *int64) key {
	return key{name: name, group: true, check: checkSize,
		get: func(n *Node) string { return orNothing(*p(n) != 0, FormatSize(*p(n))) },
		put: func(n *Node, v string) { *p(n), _ = ParseSize(v) }}
}

func orNothing(ok bool, v string) string {
	if ok {
		return v
	}
	return ""
}

// Keys are all keys but those of labels, in the order in which they are shown.
func Keys() []string {
	out := make([]string, 0, len(keys)+1)
	for _, k := range keys {
		if out = append(out, k.name); k.name == "bmc.user" {
			out = append(out, KeyPassword)
		}
	}
	return out
}

// IsKey tells whether there is such a key; labels are none.
func IsKey(name string) bool {
	_, ok := order[name]
	return ok
}

// Default is the value that holds where none was said of a key, or "".
func Default(name string) string {
	k, ok := find(name)
	if !ok || k.none == "" {
		return ""
	}
	if v, err := k.check(k.none); err == nil && v == k.none && !strings.Contains(v, " ") {
		return v
	}
	return "" // k.none describes it
}

// CompareKeys puts keys into the order of Keys, then labels.
func CompareKeys(a, b string) int {
	if a == b {
		return 0
	}
	all := order
	ia, oka := all[a]
	ib, okb := all[b]
	switch {
	case oka && okb:
		return ia - ib
	case oka:
		return -1
	case okb:
		return 1
	}
	return strings.Compare(a, b)
}

var order = func() map[string]int {
	m := map[string]int{}
	for i, k := range Keys() {
		m[k] = i
	}
	return m
}()

func find(name string) (key, bool) {
	if i := slices.IndexFunc(keys, func(k key) bool { return k.name == name }); i >= 0 {
		return keys[i], true
	}
	label, ok := strings.CutPrefix(name, LabelPrefix)
	return labelKey(label), ok && isLabel(label)
}

func labelKey(label string) key {
	return key{name: LabelPrefix + label, group: true, pattern: true,
		check: func(v string) (string, error) { return v, checkLabel(label, v) },
		get:   func(n *Node) string { return n.Labels[label] },
		put: func(n *Node, v string) {
			if v == "" {
				delete(n.Labels, label)
				return
			}
			if n.Labels == nil {
				n.Labels = map[string]string{}
			}
			n.Labels[label] = v
		}}
}

// maxValue bounds a value, in bytes.
const maxValue = 8 << 10

// Check tells whether value can be said of a node under a key, and gives the form in which it is kept. An empty value,
// which unsets, is always good.
func Check(name, value string) (string, error) {
	k, err := checkKey(name, value)
	if err != nil || value == "" || name == KeyPassword {
		return value, err
	}
	return k.check(strings.TrimSpace(value))
}

func checkKey(name, value string) (key, error) {
	k, ok := find(name)
	if !ok && name != KeyPassword {
		if label, isLabel := strings.CutPrefix(name, LabelPrefix); isLabel {
			return k, fmt.Errorf("%q is no name for a label: want letters, digits, dots, hyphens, underscores and slashes, at most 100", label)
		}
		return k, fmt.Errorf("no such key%s", didYouMean(name))
	}
	if len(value) > maxValue {
		return k, fmt.Errorf("the value has %d bytes, more than %d", len(value), maxValue)
	}
	if !utf8.ValidString(value) || strings.ContainsFunc(value, func(r rune) bool {
		return unicode.IsControl(r) && (!strings.HasPrefix(name, LabelPrefix) || r != '\n' && r != '\t')
	}) {
		return k, fmt.Errorf("the value has characters that are no text")
	}
	return k, nil
}

// didYouMean names a key that is like a misspelt one.
func didYouMean(name string) string {
	tail := name[strings.LastIndexAny(name, "._-")+1:]
	for _, k := range Keys() {
		if tail != "" && (k == tail || strings.HasSuffix(k, "."+tail) || strings.EqualFold(k, name)) {
			return fmt.Sprintf("; is it %s?", k)
		}
	}
	return "; free ones begin with " + LabelPrefix
}

// CheckGroup is Check for what is said of a group. In the values of bmc, hostname, knobs.cmdline and labels, {name}
// stands for the name of the node that inherits it and {n} for the number at the end of that.
func CheckGroup(name, value string) (string, error) {
	k, err := checkKey(name, value)
	switch {
	case err != nil:
		return "", err
	case name == KeyPassword:
		return value, nil
	case !k.group:
		return "", fmt.Errorf("it belongs to one node and cannot be said of a group")
	case value == "":
		return "", nil
	}
	value = strings.TrimSpace(value)
	if !k.pattern {
		return k.check(value)
	}
	filled, err := Inherit(name, value, "n1")
	if err == nil {
		_, err = k.check(filled)
	}
	if err == nil && k.each && filled == value && (name != "bmc" || OwnBMC(value)) {
		err = fmt.Errorf("all nodes of the group would have the same: want {name} or {n} in it")
	}
	return value, err
}

// Inherit is what a node inherits where a group says value: in bmc, hostname, knobs.cmdline and labels, {name} becomes the
// node's name, and {n} the number at the end of that, without leading zeros.
func Inherit(name, value string, n Name) (string, error) {
	if k, ok := find(name); !ok || !k.pattern || !strings.Contains(value, "{n") {
		return value, nil
	}
	value = strings.ReplaceAll(value, "{name}", string(n))
	if !strings.Contains(value, "{n}") {
		return value, nil
	}
	number := string(n)[len(strings.TrimRight(string(n), "0123456789")):]
	if number == "" {
		return "", fmt.Errorf("{n}: there is no number at the end of the name %s", n)
	}
	if number = strings.TrimLeft(number, "0"); number == "" {
		number = "0"
	}
	return strings.ReplaceAll(value, "{n}", number), nil
}

// List takes a value with commas or blanks apart.
func List(s string) []string {
	if s == "" {
		return nil
	}
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

// OfGroup tells whether a key can be said of a group.
func OfGroup(name string) bool {
	k, ok := find(name)
	return name == KeyPassword || ok && k.group
}
