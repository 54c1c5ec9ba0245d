package xcat

import (
	"net/netip"
	"regexp"
	"strings"

	"mimeo/internal/cluster/node"
)

// hostNames gathers the addresses that makehosts puts into /etc/hosts from the table hosts: of nodes, of their other
// names, and of otherinterfaces, "-EXTENSION:ADDRESS,NAME:ADDRESS" (hosts(5)).
func (im *importer) hostNames() {
	im.names = map[string]string{}
	quiet := &reader{db: im.db, notes: &notebook{}, merge: im.merge, exprs: im.exprs}
	put := func(name, ip string) {
		if a, err := netip.ParseAddr(ip); err == nil && name != "" {
			if _, ok := im.names[name]; !ok {
				im.names[name] = a.String()
			}
		}
	}
	for _, row := range im.db.tables["nodelist"].Rows {
		own := row.Key
		if ip, ok := quiet.get("", own, "hosts", "ip"); ok {
			put(own, ip.value)
			also, _ := quiet.get("", own, "hosts", "hostnames")
			for _, n := range node.List(also.value) {
				put(n, ip.value)
			}
		}
		other, _ := quiet.get("", own, "hosts", "otherinterfaces")
		for _, part := range node.List(other.value) {
			name, ip, _ := strings.Cut(part, ":")
			if strings.HasPrefix(name, "-") {
				name = own + name
			}
			put(name, ip)
		}
	}
}

// power carries over how a node's power is switched: nodehm.power, or nodehm.mgt, and the table that it names.
func (im *importer) power(d *draft) {
	method, ok := im.get(d.name, d.own, "nodehm", "power")
	mgt, hasMgt := im.get(d.name, d.own, "nodehm", "mgt")
	if !ok {
		method, ok = mgt, hasMgt
	}
	if !ok {
		im.notes.put(Note{Kind: Check, Table: "nodehm", Column: "mgt", Why: "it is not set: without a BMC, a person switches the node"}, d.name)
		return
	}
	scheme := map[string]string{"ipmi": "ipmi://", "openbmc": "redfish://"}[method.value]
	if scheme == "" {
		im.notes.add(Left, method.at, d.name, "Mimeo switches power by IPMI and Redfish, and not by %s: a person switches the node, until it is given another BMC", clip(method.value))
		return
	}
	table := method.value
	bmc, ok := im.get(d.name, d.own, table, "bmc")
	if !ok && len(im.cells(d.own, table, "bmc")) > 0 {
		return // an expression that could not be worked out has its note
	}
	if !ok {
		im.notes.add(Left, method.at, d.name, "%s.bmc does not say where the BMC is: a person switches the node", table)
		return
	}
	host, known := im.address(bmc.value)
	if host == "" {
		im.notes.add(Left, bmc.at, d.name, "%q is no address and no name of one BMC", clip(bmc.value))
		return
	}
	if !known {
		im.notes.add(Check, bmc.at, d.name, "the BMC is given by name, and the table hosts does not have it: Mimeo's management node has to know the name, from DNS or /etc/hosts")
	}
	bmc.group = "" // two nodes of a group never have the same BMC, save by mistake
	if !im.set(d, "bmc", scheme+host, bmc) {
		return
	}
	im.carry(method.at.table, method.at.column, "bmc", d.name)
	if table == "openbmc" {
		im.set(d, "bmc.insecure", "true", method)
		im.notes.add(Check, method.at, d.name, "xCAT checked no certificate of OpenBMC, and bmc.insecure=true is the same: unset it where the certificate is good, and set bmc=ipmi://ADDRESS where the BMC has no Redfish")
	}
	im.signIn(d, table, bmc)
}

// signIn carries over user and password: those of the table together, or else those of the table passwd.
func (im *importer) signIn(d *draft, table string, bmc found) {
	user, hasUser := im.get(d.name, d.own, table, "username")
	password, hasPassword := im.get(d.name, d.own, table, "password")
	if !hasUser && !hasPassword {
		if t := im.db.tables["passwd"]; t != nil && t.byKey[table] != nil {
			row := t.byKey[table]
			user, hasUser = passwdCell(row, "username")
			password, hasPassword = passwdCell(row, "password")
			if row.Cells["cryptmethod"] != "" && hasPassword {
				im.notes.add(Left, password.at, d.name, "it is encrypted (cryptmethod): set bmc.password")
				hasPassword = false
			}
		}
	}
	switch {
	case !hasUser && !hasPassword:
		im.notes.add(Left, bmc.at, d.name, "neither %s nor passwd has a user and password for the BMC: set bmc.user and bmc.password", table)
	case !hasUser:
		im.notes.add(Check, password.at, d.name, "a password without a user, for which xCAT takes an empty one")
	case !hasPassword:
		im.notes.add(Check, user.at, d.name, "a user without a password: set bmc.password")
	}
	if hasUser {
		im.set(d, "bmc.user", user.value, user)
	}
	if hasPassword {
		im.set(d, node.KeyPassword, password.value, password)
	}
}

func passwdCell(row *Row, column string) (found, bool) {
	row.used[column] = true
	return found{value: row.Cells[column], at: cell{"passwd", row, column}}, row.Cells[column] != ""
}

var dnsName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?$`)

// address makes the host of a URL of an address or a name. It is empty where the text is neither, and known is false
// where it stays a name.
func (im *importer) address(text string) (host string, known bool) {
	if ip := im.names[text]; ip != "" {
		text = ip
	}
	if a, err := netip.ParseAddr(text); err == nil {
		if a.Is6() {
			return "[" + a.String() + "]", a.Zone() == ""
		}
		return a.String(), true
	}
	if !dnsName.MatchString(text) || strings.Trim(text, "0123456789.") == "" {
		return "", false
	}
	return text, false
}
