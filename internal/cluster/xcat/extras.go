package xcat

import (
	"fmt"
	"slices"
	"strings"

	"mimeo/internal/cluster/node"
)

// console carries over the serial port of nodehm as the kernel's console.
func (im *importer) console(d *draft) {
	port, hasPort := im.get(d.name, d.own, "nodehm", "serialport")
	speed, hasSpeed := im.get(d.name, d.own, "nodehm", "serialspeed")
	flow, hasFlow := im.get(d.name, d.own, "nodehm", "serialflow")
	cons, hasCons := im.get(d.name, d.own, "nodehm", "cons")
	if hasCons && cons.value != "ipmi" && cons.value != "openbmc" {
		im.notes.add(Left, cons.at, d.name, "Mimeo reads a console through the node's BMC alone")
	}
	switch {
	case !hasPort:
		return
	case !hasSpeed:
		im.notes.add(Left, port.at, d.name, "serialport without serialspeed, which xCAT refuses when it sets a node up")
		return
	case !isNumber(port.value) || !isNumber(speed.value):
		im.notes.add(Left, port.at, d.name, "serialport %q and serialspeed %q are no numbers", clip(port.value), clip(speed.value))
		return
	}
	from := []found{port, speed}
	tty := "ttyS"
	if arch, ok := im.get("", d.own, "nodetype", "arch"); ok && strings.Contains(strings.ToLower(arch.value), "ppc64") {
		tty, from = "hvc", append(from, arch) // as xCAT has it on POWER
	}
	text := tty + port.value + "," + speed.value
	if hasFlow {
		if slices.ContainsFunc([]string{"hard", "tcs", "cts"}, func(w string) bool { return strings.Contains(flow.value, w) }) {
			text, from = text+"n8r", append(from, flow)
		} else {
			im.notes.add(Left, flow.at, d.name, "xCAT knows no flow control but hard")
		}
	}
	im.set(d, "knobs.console", text, from...)
}

func isNumber(s string) bool { return s != "" && len(s) < 10 && strings.Trim(s, "0123456789") == "" }

// kernel carries over the kernel parameters of bootparams that are for provisioning; those after "R::" are for the
// provisioned system (bootparams(5)).
func (im *importer) kernel(d *draft) {
	add, ok := im.get(d.name, d.own, "bootparams", "addkcmdline")
	if !ok {
		return
	}
	if strings.Contains(add.value, "#") {
		im.notes.add(Left, add.at, d.name, "it has values of other tables put in (#...#)")
		return
	}
	var keep []string
	for _, word := range strings.Fields(add.value) {
		if strings.HasPrefix(word, "R::") {
			im.notes.add(Left, add.at, d.name, "R:: is for the installed system: that belongs in the image's own boot loader")
			continue
		}
		keep = append(keep, word)
	}
	if len(keep) > 0 && im.set(d, "knobs.cmdline", strings.Join(keep, " "), add) {
		im.notes.add(Check, add.at, d.name, "they go to the kernel of the stateless image now: leave out what was for an installer")
	}
}

// labelled are the cells that become labels.
var labelled = []struct{ table, column, label string }{
	{"nodetype", "os", "os"},
	{"nodetype", "profile", "osprofile"},
	{"vpd", "serial", "serial"},
	{"vpd", "mtm", "mtm"},
	{"vpd", "asset", "asset"},
	{"vpd", "uuid", "uuid"},
	{"postscripts", "postscripts", "xcat_postscripts"},
	{"postscripts", "postbootscripts", "xcat_postbootscripts"},
}

func (im *importer) labels(d *draft) {
	for _, l := range labelled {
		if f, ok := im.get(d.name, d.own, l.table, l.column); ok && im.set(d, node.LabelPrefix+l.label, f.value, f) && l.table == "postscripts" {
			im.notes.add(Check, f.at, d.name, "kept as a label, and not run: xCAT's scripts call its own server. Write those that are still needed as postscripts of Mimeo, and name them in label.postscripts.root")
		}
	}
	row := im.db.tables["nodelist"].byKey[d.own]
	if text := row.Cells["comments"]; text != "" { // a remark is no expression
		row.used["comments"] = true
		im.set(d, "label.comment", text, found{value: text, at: cell{"nodelist", row, "comments"}})
	}
	if f, ok := im.get(d.name, d.own, "nodetype", "provmethod"); ok {
		label := "label.osimage"
		if t := im.db.tables["osimage"]; slices.Contains([]string{"install", "netboot", "statelite", "sysclone", "boottarget"}, f.value) && (t == nil || t.byKey[f.value] == nil) {
			label = "label.provmethod"
		}
		im.set(d, label, f.value, f)
	}
	im.switchPorts(d)
}

// switchPorts makes labels of the switch ports that a node is plugged into: switch and switch_port for the card that it
// boots from, switch.INTERFACE and switch_port.INTERFACE for others (switch(5)).
func (im *importer) switchPorts(d *draft) {
	rows := im.rows(d.own, "switch")
	for i, row := range rows {
		read := func(column string) (found, bool) {
			row.used[column] = true
			f := found{value: row.Cells[column], at: cell{"switch", row, column}}
			if row.Key != d.own {
				f.group = row.Key
			}
			return im.work(d.name, d.own, f)
		}
		iface, _ := read("interface")
		tail := "." + iface.value
		if iface.value == "" || strings.HasPrefix(iface.value, "primary") || len(rows) == 1 {
			tail = ""
		}
		if _, taken := d.values["label.switch"+tail]; taken {
			im.notes.add(Left, cell{"switch", rows[i], "port"}, d.name, "a second port for the same network card")
			continue
		}
		if f, ok := read("switch"); ok {
			im.set(d, "label.switch"+tail, f.value, f)
		}
		if f, ok := read("port"); ok {
			im.set(d, "label.switch_port"+tail, f.value, f)
		}
	}
}

// wholeTables notes the tables that are no nodes' row by row.
func (im *importer) wholeTables() {
	if t := im.db.tables["passwd"]; t != nil {
		for _, row := range t.Rows {
			at := cell{"passwd", row, "password"}
			switch {
			case row.used["username"]:
			case row.Key == "ipmi" || row.Key == "openbmc":
				why := "no node uses it"
				if t.byKey[row.Key] != row {
					why = "a second user: the first counts"
				}
				im.notes.add(Left, at, "", "%s", why)
			case row.Key == "system":
				im.notes.add(Left, at, "", "the nodes' root password belongs in the image, or in a postscript")
			default:
				im.notes.add(Left, at, "", "Mimeo signs in to BMCs alone")
			}
		}
	}
	if t := im.db.tables["networks"]; t != nil {
		for _, row := range t.Rows {
			im.notes.add(Left, cell{"networks", row, "net"}, "", "networks belong to mimeod's configuration: %s", networkAdvice(row))
		}
	}
	if t := im.db.tables["osimage"]; t != nil {
		for _, row := range t.Rows {
			how := "build a stateless profile (mimeo stateless), or capture a node that runs it"
			if row.Cells["provmethod"] == "install" || row.Cells["provmethod"] == "sysclone" {
				how = "capture a node that was installed with it (mimeo capture)"
			}
			im.notes.add(Left, cell{"osimage", row, "imagename"}, "", "Mimeo's images are captured disks: %s", how)
		}
	}
	for name, why := range map[string]string{"linuximage": "files and package lists of xCAT's images", "site": "xCAT's own settings: Mimeo's are in /etc/mimeo/mimeod.yaml"} {
		if t := im.db.tables[name]; t != nil && len(t.Rows) > 0 {
			im.notes.put(Note{Kind: Left, File: t.file, Line: t.Rows[0].Line, Table: name, Rows: len(t.Rows), Why: why}, "")
		}
	}
}

// networkAdvice says what of a network goes where in mimeod.yaml.
func networkAdvice(row *Row) string {
	out := []string{fmt.Sprintf("network %s/%s", row.Cells["net"], row.Cells["mask"])}
	for _, f := range []struct{ column, key string }{{"mgtifname", "name"}, {"dynamicrange", "pool"}, {"gateway", "gateway"}, {"nameservers", "dns"}, {"domain", "domain"}} {
		if v := row.Cells[f.column]; v != "" {
			out = append(out, f.key+": "+clip(v))
		}
	}
	return strings.Join(out, ", ")
}
