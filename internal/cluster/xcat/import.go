package xcat

import (
	"fmt"
	"slices"
	"strings"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// Result is what an import would make, and what a person should know of it.
type Result struct {
	Inventory api.Inventory `json:"inventory"` // with passwords
	Carried   []Carried     `json:"carried"`
	Notes     []Note        `json:"notes"`
	Missing   []string      `json:"missing,omitempty"` // tables that are not there, of those that are read
	Skipped   []string      `json:"skipped,omitempty"` // files that were not read
	Off       int           `json:"off,omitempty"`     // rows that xCAT has turned off
}

// value is what Mimeo is to know of a node under one key.
type value struct {
	text  string
	group string // the group whose row said it as it stands
}

// draft is a node as it comes to be.
type draft struct {
	own    string // xCAT's name
	name   node.Name
	groups []string // in Mimeo's order
	values map[string]value
}

// importer carries nodes over.
type importer struct {
	*reader
	drafts  []*draft
	carried map[Carried]map[node.Name]bool
	names   map[string]string // names of BMCs and cards → addresses, from the table hosts
}

// Import works out for each node what xCAT has in effect, and says it in Mimeo's keys. What is said of a group as it
// stands is said of the group again, wherever each of its nodes then has in effect what it had with xCAT.
func (db *Database) Import() *Result {
	notes := &notebook{}
	im := &importer{reader: newReader(db, notes), carried: map[Carried]map[node.Name]bool{}}
	for i := range db.odd {
		notes.put(db.odd[i], "")
	}
	im.nodes()
	im.dynamicGroups()
	im.hostNames()
	for _, d := range im.drafts {
		im.power(d)
		im.cards(d)
		im.kind(d)
		im.console(d)
		im.kernel(d)
		im.labels(d)
	}
	im.unique()
	im.wholeTables()
	im.rest()
	res := &Result{Notes: notes.list(), Missing: db.missing(), Skipped: db.skipped, Carried: im.carriedList()}
	res.Inventory = im.lift()
	for _, t := range db.tables {
		res.Off += t.off
	}
	return res
}

// set gives a node a value, if Mimeo takes it.
func (im *importer) set(d *draft, key, text string, from ...found) bool {
	if text == "" {
		return false
	}
	good, err := node.Check(key, text)
	if err != nil {
		im.notes.add(Left, from[0].at, d.name, "%v", err)
		return false
	}
	v := value{text: good, group: from[0].group}
	for _, f := range from {
		if f.group != v.group {
			v.group = ""
		}
	}
	d.values[key] = v
	for _, f := range from {
		im.carry(f.at.table, f.at.column, key, d.name)
	}
	return true
}

func (im *importer) carry(table, column, key string, n node.Name) {
	c := Carried{Table: table, Column: column, Key: key}
	if im.carried[c] == nil {
		im.carried[c] = map[node.Name]bool{}
	}
	im.carried[c][n] = true
}

func (im *importer) carriedList() []Carried {
	var out []Carried
	for c, nodes := range im.carried {
		c.Nodes = len(nodes)
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Carried) int {
		if r := tableRank(a.Table) - tableRank(b.Table); r != 0 {
			return r
		}
		return strings.Compare(a.Column+" "+a.Key, b.Column+" "+b.Key)
	})
	return out
}

// devices are nodes of xCAT that are no compute nodes: nodetype.nodetype of switches, chassis and the like.
var devices = []string{"switch", "pdu", "ups", "hmc", "ivm", "fsp", "bpa", "cec", "frame", "mm", "cmm", "mp", "rsa", "rack"}

// nodes makes a draft of each node, with its groups.
func (im *importer) nodes() {
	taken := map[node.Name]string{}
	for _, row := range im.db.tables["nodelist"].Rows {
		at := cell{"nodelist", row, "node"}
		row.used["node"], row.used["groups"] = true, true
		name := node.Name(strings.ToLower(row.Key))
		if !node.IsName(string(name)) {
			im.notes.add(Left, at, "", "%q is no name for a node of Mimeo: want letters, digits and hyphens, at most 63. Rename it in xCAT, or add it by hand", clip(row.Key))
			continue
		}
		if other, ok := taken[name]; ok {
			im.notes.add(Left, at, "", "Mimeo's names are in lower case, and %s is there already", other)
			continue
		}
		if kind, _ := im.get(name, row.Key, "nodetype", "nodetype"); kind.value != "" {
			words := node.List(kind.value)
			if i := slices.IndexFunc(words, func(w string) bool { return slices.Contains(devices, w) }); i >= 0 && !slices.Contains(words, "osi") {
				im.notes.add(Left, at, "", "it is a %s and no compute node, as nodetype.nodetype says", words[i])
				continue
			}
		}
		if h := row.Cells["hidden"]; isOff(h) { // the same words turn it on
			im.notes.add(Left, at, "", "nodelist.hidden is set: it is a part of a frame")
			continue
		}
		row.used["hidden"] = true
		taken[name] = row.Key
		d := &draft{own: row.Key, name: name, values: map[string]value{}}
		if string(name) != row.Key {
			im.notes.add(Check, at, name, "its name is %s with Mimeo: names are in lower case", name)
		}
		for _, g := range im.db.groupsOf(row.Key) {
			im.join(d, cell{"nodelist", row, "groups"}, g)
		}
		im.carry("nodelist", "node", "node", name)
		im.drafts = append(im.drafts, d)
	}
}

// join puts a node into a group. The group all is Mimeo's own, and every node is in it.
func (im *importer) join(d *draft, at cell, group string) {
	switch {
	case group == node.GroupAll || slices.Contains(d.groups, group):
	case !node.IsGroup(group):
		im.notes.add(Left, at, d.name, "%q is no name for a group of Mimeo; what the nodes have from it is said of each of them", clip(group))
	default:
		d.groups = append(d.groups, group)
		im.carry(at.table, at.column, "groups", d.name)
	}
}

// dynamicGroups puts nodes into the groups that xCAT finds anew each time.
func (im *importer) dynamicGroups() {
	t := im.db.tables["nodegroup"]
	if t == nil {
		return
	}
	members := map[string]bool{}
	all := make([]string, 0, len(im.drafts))
	for _, d := range im.drafts {
		all = append(all, d.own)
		for _, g := range im.db.groupsOf(d.own) {
			members[g] = true
		}
	}
	for _, row := range t.Rows {
		row.used["groupname"], row.used["grouptype"] = true, true
		if row.Cells["wherevals"] == "" || !strings.EqualFold(row.Cells["grouptype"], "dynamic") {
			if !members[row.Key] {
				im.notes.add(Left, cell{"nodegroup", row, "groupname"}, "", "no node is in this group")
			}
			continue
		}
		at := cell{"nodegroup", row, "wherevals"}
		names, err := im.dynamicMembers(row.Cells["wherevals"], all)
		switch {
		case err != nil:
			im.notes.add(Left, at, "", "%v", err)
		case !node.IsGroup(row.Key):
			im.notes.add(Left, at, "", "%q is no name for a group of Mimeo", clip(row.Key))
		case len(names) == 0:
			im.notes.add(Left, at, "", "no node is in this group")
		default:
			for _, d := range im.drafts {
				if slices.Contains(names, d.own) {
					im.join(d, at, row.Key)
					im.notes.add(Check, at, d.name, "the group holds the nodes for which this is so now, and stays as it is: Mimeo has no dynamic groups")
				}
			}
		}
	}
}

// unique takes cards and addresses from nodes where another has them already: Mimeo would refuse all of the import.
func (im *importer) unique() {
	owner := map[string]*draft{}
	for _, d := range im.drafts {
		macs, ips := node.List(d.values["mac"].text), node.List(d.values["ip"].text)
		var keepMAC, keepIP []string
		for i, m := range macs {
			ip := "-"
			if i < len(ips) {
				ip = ips[i]
			}
			at := im.cellOf(d, "mac", "mac")
			if o := owner[m]; o != nil {
				im.notes.add(Left, at, d.name, "%s belongs to %s already", m, o.name)
				continue
			}
			owner[m] = d
			if o := owner[ip]; o != nil && ip != "-" {
				im.notes.add(Left, im.cellOf(d, "hosts", "ip"), d.name, "%s belongs to %s already", ip, o.name)
				ip = "-"
			} else if ip != "-" {
				owner[ip] = d
			}
			keepMAC, keepIP = append(keepMAC, m), append(keepIP, ip)
		}
		im.resetList(d, "mac", keepMAC, macs)
		im.resetList(d, "ip", keepIP, ips)
	}
}

func (im *importer) resetList(d *draft, key string, list, was []string) {
	text := strings.TrimRight(strings.Join(list, ","), "-,")
	switch v := d.values[key]; {
	case text == v.text:
	case text == "":
		delete(d.values, key)
		if len(was) > 0 {
			for c, nodes := range im.carried {
				if c.Key == key {
					delete(nodes, d.name)
				}
			}
		}
	default:
		d.values[key] = value{text: text}
	}
}

// cellOf is where a value of a node stands, for a note.
func (im *importer) cellOf(d *draft, table, column string) cell {
	if cells := im.cells(d.own, table, column); len(cells) > 0 {
		return cells[0]
	}
	return cell{table: table, column: column}
}

// rest notes every cell that nothing was made of, so that nothing is left behind in silence.
func (im *importer) rest() {
	for _, name := range im.db.names() {
		t, s := im.db.tables[name], schema[name]
		for _, column := range t.Columns {
			if column == s.key || column == "disable" || s.whole {
				continue
			}
			why, known := s.columns[column]
			switch {
			case why != "":
			case column == "comments" && name != "nodelist":
				why = "a remark in xCAT's tables"
			case !known && column != "comments":
				why = "Mimeo has no such setting"
			}
			var rows []*Row
			for _, r := range t.Rows {
				switch {
				case r.Cells[column] == "":
				case why != "":
					rows = append(rows, r)
				case !r.used[column]:
					im.notes.add(Left, cell{name, r, column}, "", "%s", im.unusedWhy(name, r))
				}
			}
			if len(rows) > 0 {
				im.notes.put(Note{Kind: Left, File: rows[0].file, Line: rows[0].Line, Table: name, Column: column, Rows: len(rows), Why: why}, "")
			}
		}
	}
}

// unusedWhy says why no node has taken a value.
func (im *importer) unusedWhy(table string, r *Row) string {
	switch {
	case !schema[table].nodes:
		return "Mimeo has no use for it"
	case r.Key == "xcatdefaults":
		return "xCAT's own scripts for all nodes: they speak to its server. What a node needs belongs in the image, or in a postscript"
	}
	if t := im.db.tables["nodegroup"]; t != nil && t.byKey[r.Key] != nil && strings.EqualFold(t.byKey[r.Key].Cells["grouptype"], "dynamic") {
		return "xCAT gives values of a group's row to those alone that nodelist.groups names, and this group is a dynamic one"
	}
	if im.db.tables["nodelist"].byKey[r.Key] != nil {
		return "the node is not carried over, or xCAT has no use for it as the node is set up"
	}
	for _, d := range im.drafts {
		if slices.Contains(im.db.groupsOf(d.own), r.Key) {
			return "no node takes it: each has a value from a row that goes before, or xCAT has no use for it as they are set up"
		}
	}
	return fmt.Sprintf("%s is neither a node nor a group with nodes", clip(r.Key))
}
