package xcat

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// The rack of the test: 10 racks of 40 nodes r1n01 to r10n40. Rack 10 is POWER with OpenBMC, nodes 31 to 40 of racks 1
// to 3 have GPUs.
const racks, perRack = 10, 40

type place struct{ rack, n int }

func (p place) name() string { return fmt.Sprintf("r%dn%02d", p.rack, p.n) }

func (p place) power() bool { return p.rack == 10 }

func (p place) gpu() bool { return p.rack <= 3 && p.n > 30 }

func (p place) groups() []string {
	var g []string
	if p.gpu() {
		g = append(g, "gpu")
	}
	if p.power() {
		g = append(g, "power9")
	}
	return append(g, fmt.Sprintf("rack%d", p.rack), "compute", "all")
}

func (p place) mac() string { return fmt.Sprintf("52:54:00:0A:%02X:%02X", p.rack, p.n) }

func places() []place {
	var out []place
	for r := 1; r <= racks; r++ {
		for n := 1; n <= perRack; n++ {
			out = append(out, place{r, n})
		}
	}
	return out
}

// rackTables are the tables of that rack, as tabdump writes them, with the columns that xCAT's schema has.
func rackTables() fstest.MapFS {
	columns := map[string]string{
		"nodelist": "node,groups,status,statustime,appstatus,appstatustime,primarysn,hidden,updatestatus,updatestatustime,zonename,comments,disable",
		"hosts":    "node,ip,hostnames,otherinterfaces,comments,disable",
		"mac":      "node,interface,mac,comments,disable",
		"noderes":  "node,servicenode,netboot,tftpserver,tftpdir,nfsserver,monserver,nfsdir,installnic,primarynic,discoverynics,cmdinterface,xcatmaster,current_osimage,next_osimage,nimserver,routenames,nameservers,proxydhcp,syslog,comments,disable",
		"nodetype": "node,os,arch,profile,provmethod,supportedarchs,nodetype,comments,disable",
		"nodehm":   "node,power,mgt,cons,termserver,termport,conserver,serialport,serialspeed,serialflow,getmac,cmdmapping,consoleondemand,consoleenabled,comments,disable",
		"ipmi":     "node,bmc,bmcport,taggedvlan,bmcid,username,password,comments,disable",
		"openbmc":  "node,bmc,consport,taggedvlan,username,password,comments,disable",
		"passwd":   "key,username,password,cryptmethod,authdomain,comments,disable",
		"networks": "netname,net,mask,mgtifname,gateway,dhcpserver,tftpserver,nameservers,ntpservers,logservers,dynamicrange,staticrange,staticrangeincrement,nodehostname,ddnsdomain,vlanid,domain,mtu,comments,disable",
		"chain":    "node,currstate,currchain,chain,ondiscover,comments,disable", "bootparams": "node,kernel,initrd,kcmdline,addkcmdline,dhcpstatements,adddhcpstatements,comments,disable",
		"postscripts": "node,postscripts,postbootscripts,comments,disable", "osimage": "imagename,groups,profile,imagetype,description,provmethod,rootfstype,osdistroname,osupdatename,cfmdir,osname,osvers,osarch,synclists,postscripts,postbootscripts,serverrole,isdeletable,kitcomponents,environvar,comments,disable",
		"linuximage": "imagename,template,boottarget,addkcmdline,pkglist,comments,disable", "vpd": "node,serial,mtm,side,asset,uuid,comments,disable",
		"switch": "node,switch,port,vlan,interface,comments,disable", "nodegroup": "groupname,grouptype,members,membergroups,wherevals,comments,disable",
		"site": "key,value,comments,disable",
	}
	rows := map[string][]map[string]string{}
	add := func(table string, pairs ...string) {
		row := map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			row[pairs[i]] = pairs[i+1]
		}
		rows[table] = append(rows[table], row)
	}
	for _, p := range places() {
		comment := ""
		if p == (place{4, 4}) {
			comment = "fan is loud, \"really\"\nask Ann"
		}
		add("nodelist", "node", p.name(), "groups", strings.Join(p.groups(), ","), "status", "booted", "comments", comment)
		mac := p.mac()
		switch p.n {
		case 2: // a second card without an address
			mac += fmt.Sprintf("|52:54:00:0b:%02x:02!*NOIP*", p.rack)
		case 3: // the first card is another network's
			mac = fmt.Sprintf("52-54-00-0B-%02x-03!%s-st|%s!%s", p.rack, p.name(), mac, p.name())
		case 4:
			mac = ""
		}
		if mac != "" {
			add("mac", "node", p.name(), "interface", "eth0", "mac", mac)
		}
		add("vpd", "node", p.name(), "serial", fmt.Sprintf("SN%d%03d", p.rack, p.n))
		add("chain", "node", p.name(), "currstate", "boot")
	}
	add("hosts", "node", "compute", "ip", `|r(\d+)n(\d+)|10.1.($1+0).($2+100)|`, "otherinterfaces", `|r(\d+)n(\d+)|-st:10.5.($1+0).($2+0),-bmc:10.9.($1+0).($2+0)|`)
	add("hosts", "node", "r6n06", "ip", "10.1.200.6")
	add("hosts", "node", "r6n07", "ip", "10.1.200.7", "disable", "yes")
	add("noderes", "node", "power9", "netboot", "petitboot")
	add("noderes", "node", "compute", "netboot", "xnba", "installnic", "mac", "xcatmaster", "10.1.0.1")
	add("nodetype", "node", "power9", "arch", "ppc64le")
	add("nodetype", "node", "compute", "arch", "x86_64", "os", "rocky9.4", "profile", "compute", "provmethod", "rocky9-netboot", "nodetype", "osi")
	add("nodetype", "node", "r5n05", "arch", "aarch64")
	add("nodetype", "node", "r5n06", "arch", "ia64")
	add("nodehm", "node", "power9", "mgt", "openbmc", "serialflow", "hard")
	add("nodehm", "node", "compute", "mgt", "ipmi", "cons", "ipmi", "serialport", "1", "serialspeed", "115200")
	add("nodehm", "node", "r1n01", "serialspeed", "19200")
	add("nodehm", "node", "r1n05", "mgt", "hmc")
	add("ipmi", "node", "rack2", "bmc", `|r\d+n(\d+)|10.8.2.(($1-1)%20+($1-1)/20*100+1)|`)
	add("ipmi", "node", "compute", "bmc", `/\z/-bmc/`)
	add("ipmi", "node", "gpu", "username", "gpuops", "password", `p"w,d`)
	add("ipmi", "node", "r7n07", "username", "root", "password", "calvin")
	add("ipmi", "node", "r7n08", "bmc", `/(?<=n)0/x/`)
	add("openbmc", "node", "power9", "bmc", `|(\w+)|($1)-obmc|`)
	add("passwd", "key", "ipmi", "username", "ops", "password", "secret-ipmi")
	add("passwd", "key", "openbmc", "username", "root", "password", "secret-obmc")
	add("passwd", "key", "system", "username", "root", "password", "secret-root")
	add("switch", "node", "rack1", "switch", `/n.*//`, "port", `|n(\d+)|($1)|`) // the second matches a part only
	add("switch", "node", "compute", "switch", `|r(\d+)n\d+|sw(sprintf('%02d',$1))|`, "port", `|r\d+n(\d+)|($1+0)|`)
	add("bootparams", "node", "gpu", "addkcmdline", "nomodeset R::quiet")
	add("nodegroup", "groupname", "open", "grouptype", "dynamic", "wherevals", "mgt==openbmc::node=~n0[1-5]$")
	add("nodegroup", "groupname", "compute", "grouptype", "static", "members", "static")
	add("nodegroup", "groupname", "old", "grouptype", "static", "members", "static")
	add("postscripts", "node", "xcatdefaults", "postscripts", "syslog,remoteshell,syncfiles")
	add("postscripts", "node", "gpu", "postscripts", "nvidia")
	add("osimage", "imagename", "rocky9-netboot", "provmethod", "netboot", "osarch", "x86_64")
	add("linuximage", "imagename", "rocky9-netboot", "pkglist", "/opt/x.pkglist")
	add("networks", "netname", "mgmt", "net", "10.1.0.0", "mask", "255.255.0.0", "mgtifname", "eth1", "gateway", "10.1.0.1", "dynamicrange", "10.1.250.1-10.1.250.200")
	add("site", "key", "domain", "value", "cluster.example")

	dir := fstest.MapFS{"policy.csv": {Data: []byte("#priority\n")}}
	for table, list := range columns {
		names := strings.Split(list, ",")
		var lines [][]string
		for _, row := range rows[table] {
			var cells []string
			for _, c := range names {
				cells = append(cells, row[c])
				delete(row, c)
			}
			if len(row) > 0 {
				panic(fmt.Sprint(table, " has no columns ", row))
			}
			lines = append(lines, cells)
		}
		dir[table+".csv"] = &fstest.MapFile{Data: []byte(tabdump(names, lines...))}
	}
	return dir
}

// wanted is what a node of that rack must have in effect, worked out from the place alone.
func wanted(p place) map[string]string {
	w := map[string]string{
		"groups": strings.Join(p.groups()[:len(p.groups())-1], ","), "mac": strings.ToLower(p.mac()), "ip": fmt.Sprintf("10.1.%d.%d", p.rack, p.n+100),
		"arch": "amd64", "label.os": "rocky9.4", "label.osprofile": "compute", "label.osimage": "rocky9-netboot", "label.serial": fmt.Sprintf("SN%d%03d", p.rack, p.n),
		"bmc": fmt.Sprintf("ipmi://10.9.%d.%d", p.rack, p.n), "bmc.user": "ops", "bmc.password": "secret-ipmi", "knobs.console": "ttyS1,115200",
		"label.switch": fmt.Sprintf("sw%02d", p.rack), "label.switch_port": fmt.Sprint(p.n),
	}
	if p.rack == 1 { // its own rows of the table switch go before those of compute
		w["label.switch"] = "r1"
		delete(w, "label.switch_port")
	}
	if p.rack == 2 {
		w["bmc"] = fmt.Sprintf("ipmi://10.8.2.%d", []int{p.n, p.n - 20 + 100}[boolInt(p.n > 20)])
	}
	if p.gpu() {
		w["bmc.user"], w["bmc.password"], w["knobs.cmdline"], w["label.xcat_postscripts"] = "gpuops", `p"w,d`, "nomodeset", "nvidia"
	}
	if p.power() {
		w["arch"], w["firmware"], w["knobs.console"] = "ppc64el", "opal", "hvc1,115200n8r"
		w["bmc"], w["bmc.user"], w["bmc.password"], w["bmc.insecure"] = "redfish://"+p.name()+"-obmc", "root", "secret-obmc", "true"
		if p.n <= 5 {
			w["groups"] += ",open"
		}
	}
	switch p.n {
	case 2:
		w["mac"] += fmt.Sprintf(",52:54:00:0b:%02x:02", p.rack)
	case 3:
		w["mac"] += fmt.Sprintf(",52:54:00:0b:%02x:03", p.rack)
		w["ip"] += fmt.Sprintf(",10.5.%d.3", p.rack)
	case 4:
		w["label.ip"] = w["ip"]
		delete(w, "mac")
		delete(w, "ip")
	}
	unset := func(keys ...string) {
		for _, k := range keys {
			delete(w, k)
		}
	}
	switch p {
	case place{1, 1}:
		w["knobs.console"] = "ttyS1,19200"
	case place{1, 5}:
		unset("bmc", "bmc.user", "bmc.password")
	case place{4, 4}:
		w["label.comment"] = "fan is loud, \"really\"\nask Ann"
	case place{5, 5}:
		w["arch"] = "arm64"
	case place{5, 6}:
		unset("arch")
	case place{6, 6}:
		w["ip"] = "10.1.200.6"
	case place{7, 7}:
		w["bmc.user"], w["bmc.password"] = "root", "calvin"
	case place{7, 8}:
		unset("bmc", "bmc.user", "bmc.password")
	}
	return w
}

// inEffect is what a node has once the inventory is Mimeo's, by Mimeo's own rules.
func inEffect(inv api.Inventory, item api.InventoryItem) map[string]string {
	s := node.Sources{Own: item.Set}
	password := item.Set[node.KeyPassword]
	for _, g := range s.Own.Order() {
		for _, group := range inv.Groups {
			if group.Name == g {
				s.Groups = append(s.Groups, node.Group{Name: g, Set: group.Set})
				if password == "" {
					password = group.Set[node.KeyPassword]
				}
			}
		}
	}
	out := map[string]string(s.InEffect(node.Name(item.Name)))
	if password != "" {
		out[node.KeyPassword] = password
	}
	return out
}

func TestFourHundredNodes(t *testing.T) {
	db, err := Read(rackTables())
	if err != nil {
		t.Fatal(err)
	}
	res := db.Import()
	if len(res.Inventory.Nodes) != racks*perRack {
		t.Fatalf("%d nodes", len(res.Inventory.Nodes))
	}
	for i, p := range places() {
		item := res.Inventory.Nodes[i]
		if item.Name != p.name() {
			t.Fatalf("node %d is %s, want %s", i, item.Name, p.name())
		}
		got, want := inEffect(res.Inventory, item), wanted(p)
		for k := range maps.Keys(want) {
			if got[k] != want[k] {
				t.Errorf("%s: %s is %q, want %q", p.name(), k, got[k], want[k])
			}
		}
		for k := range got {
			if _, ok := want[k]; !ok {
				t.Errorf("%s: %s is %q, and xCAT has nothing like it", p.name(), k, got[k])
			}
		}
		for k, v := range item.Set {
			if good, err := node.Check(k, v); err != nil || good != v {
				t.Errorf("%s: %s=%q is not as Mimeo keeps it: %q, %v", p.name(), k, v, good, err)
			}
		}
	}
	groups := map[string]map[string]string{}
	for _, g := range res.Inventory.Groups {
		groups[g.Name] = g.Set
		for k, v := range g.Set {
			if _, err := node.CheckGroup(k, v); err != nil {
				t.Errorf("group %s: %s=%q: %v", g.Name, k, v, err)
			}
		}
	}
	if len(groups) != 4+racks || groups["all"] != nil || groups["open"] == nil {
		t.Errorf("groups %v", slices.Sorted(maps.Keys(groups)))
	}
	// What a group's row says as it stands is said of the group once, not of each node.
	if groups["compute"]["label.os"] != "rocky9.4" || groups["gpu"]["bmc.user"] != "gpuops" || groups["gpu"]["bmc.password"] != `p"w,d` || groups["power9"]["arch"] != "ppc64el" {
		t.Errorf("compute %v, gpu %v, power9 %v", groups["compute"], groups["gpu"], groups["power9"])
	}
	for _, n := range res.Inventory.Nodes {
		if n.Set["label.os"] != "" {
			t.Errorf("%s says label.os of itself", n.Name)
		}
	}
	if groups["compute"]["arch"] != "" { // r5n06 must not inherit it
		t.Errorf("compute has arch %s, which r5n06 has not", groups["compute"]["arch"])
	}
	checkNotes(t, db, res)
}

// checkNotes looks for the notes that this rack must bring, and for cells of which nothing was made in silence.
func checkNotes(t *testing.T, db *Database, res *Result) {
	t.Helper()
	for _, want := range []struct {
		kind                    Kind
		table, row, column, why string
		nodes                   int
	}{
		{Left, "ipmi", "r7n08", "bmc", `"(?<=" in the pattern is not supported`, 1},
		{Left, "switch", "rack1", "port", "the pattern matches only", 40},
		{Left, "nodehm", "r1n05", "mgt", "not by hmc", 1},
		{Left, "nodetype", "r5n06", "arch", "ia64 is none of Mimeo's", 1},
		{Left, "bootparams", "gpu", "addkcmdline", "R:: is for the installed system", 30},
		{Check, "bootparams", "gpu", "addkcmdline", "leave out what was for an installer", 30},
		{Check, "openbmc", "power9", "bmc", "has to know the name", 40},
		{Check, "nodehm", "power9", "mgt", "checked no certificate", 40},
		{Left, "hosts", "compute", "ip", "kept as the label ip", 10},
		{Check, "mac", "", "mac", "until it has one", 10},
		{Left, "nodelist", "", "status", "xCAT's own record", 0},
		{Left, "chain", "", "currstate", "xCAT's own record", 0},
		{Left, "passwd", "system", "password", "root password", 0},
		{Left, "networks", "10.1.0.0", "net", "name: eth1, pool: 10.1.250.1-10.1.250.200, gateway: 10.1.0.1", 0},
		{Left, "osimage", "rocky9-netboot", "imagename", "stateless profile", 0},
		{Left, "linuximage", "", "", "package lists", 0},
		{Left, "site", "", "", "mimeod.yaml", 0},
		{Left, "postscripts", "xcatdefaults", "postscripts", "xCAT's own scripts", 0},
		{Check, "postscripts", "gpu", "postscripts", "not run", 30},
		{Check, "nodegroup", "open", "wherevals", "no dynamic groups", 5},
		{Left, "nodegroup", "old", "groupname", "no node is in this group", 0},
		{Left, "noderes", "compute", "netboot", "BIOS from UEFI", 358},
		{Left, "noderes", "", "xcatmaster", "servers of xCAT's", 0},
	} {
		found := false
		for _, n := range res.Notes {
			if n.Kind == want.kind && n.Table == want.table && n.Row == want.row && n.Column == want.column && strings.Contains(n.Why, strings.TrimPrefix(want.why, "servers of xCAT's")) {
				found = true
				if len(n.Nodes) != want.nodes {
					t.Errorf("%s: %d nodes, want %d: %s", n.Where(), len(n.Nodes), want.nodes, n.Why)
				}
			}
		}
		if !found {
			t.Errorf("no note like %+v", want)
		}
	}
	for _, n := range res.Notes {
		if text := fmt.Sprintf("%+v", n); strings.Contains(text, "secret") || strings.Contains(text, "calvin") || strings.Contains(text, `p"w`) {
			t.Errorf("a note shows a password: %s", text)
		}
	}
	if res.Off != 1 || strings.Join(res.Skipped, " ") != "policy.csv" {
		t.Errorf("%d rows off, %v skipped", res.Off, res.Skipped)
	}
	accounted(t, db, res)
	if t.Failed() {
		for _, n := range res.Notes {
			t.Logf("%s %s: %s %d nodes", n.Kind, n.Where(), n.Why, len(n.Nodes))
		}
	}
}

// accounted checks that each cell was looked at on behalf of a node, or has a note.
func accounted(t *testing.T, db *Database, res *Result) {
	t.Helper()
	for _, name := range db.names() {
		for _, row := range db.Table(name).Rows {
			for column := range row.Cells {
				if column == "disable" || column == schema[name].key || row.used[column] {
					continue
				}
				if !slices.ContainsFunc(res.Notes, func(n Note) bool {
					return n.Table == name && (n.Row == row.Key && (n.Column == column || schema[name].whole) || n.Row == "" && (n.Column == column || n.Column == ""))
				}) {
					t.Errorf("%s.%s of %s is left behind in silence", name, column, row.Key)
				}
			}
		}
	}
}
