package xcat

import (
	"fmt"
	"maps"
	"math/rand"
	"slices"
	"strings"
	"testing"

	"mimeo/internal/cluster/node"
)

// TestImportCells has one small case for each way a cell can go. A table is given as its lines; nodes come in effect.
func TestImportCells(t *testing.T) {
	const list = "#node,groups,comments,hidden,disable\n"
	const hm = "#node,power,mgt,cons,serialport,serialspeed,serialflow\n"
	for name, c := range map[string]struct {
		files map[string]string
		want  string   // NODE KEY=VALUE ..., nodes with | between them
		notes []string // KIND TABLE.COLUMN of ROW: WHY; pieces that must be there
	}{
		"names": {map[string]string{"nodelist": list + "N01,\nn01,\nn_2,\nn.3,\nok,\n\"-\",\n"}, "n01|ok",
			[]string{`check nodelist.node of N01: its name is n01`, `left nodelist.node of n01: Mimeo's names are in lower case, and N01`, `left nodelist.node of n_2: "n_2" is no name`, `left nodelist.node of n.3:`, `left nodelist.node of -:`}},
		"what is no compute node": {map[string]string{"nodelist": list + "sw1,\nn1,\ncec1,,,1\n", "nodetype": "#node,nodetype\nsw1,switch\nn1,\"ppc,osi\"\n"}, "n1",
			[]string{"left nodelist.node of sw1: it is a switch", "left nodelist.node of cec1: nodelist.hidden is set"}},
		"groups": {map[string]string{"nodelist": list + "n1,\"all,a, b,a,c/d,{e}\"\n"}, "n1 groups=a,b", []string{`left nodelist.groups of n1: "c/d" is no name`, `"{e}"`}},
		"a group that Mimeo cannot have still gives values": {map[string]string{"nodelist": list + "n1,c/d\n", "nodetype": "#node,os\nc/d,x9\n"}, "n1 label.os=x9", nil},
		"a node's own row goes before groups, and those in their order": {map[string]string{"nodelist": list + "n1,\"a,b\"\nn2,\"b,a\"\nn3,\"a,b\"\n", "nodetype": "#node,arch,os\na,x86_64,\nb,aarch64,two\nn3,ppc64le,\n"},
			"n1 arch=amd64 groups=a,b label.os=two|n2 arch=arm64 groups=b,a label.os=two|n3 arch=ppc64el groups=a,b label.os=two", nil},
		"the group all gives values to nodes, and takes none": {map[string]string{"nodelist": list + "n1,\"all,a\"\nn2,a\n", "nodetype": "#node,arch\nall,x86_64\na,aarch64\n"}, "n1 arch=amd64 groups=a|n2 arch=arm64 groups=a", nil},
		"a row that goes on with the next":                    {map[string]string{"nodelist": list + "n1,a\n", "nodetype": "#node,os\nn1,one+=NEXTRECORD\na,two\n"}, "n1 groups=a label.os=onetwo", nil},
		"columns joined from all groups": {map[string]string{"nodelist": list + "n1,\"a,b\"\n", "postscripts": "#node,postscripts\nn1,\"x,y\"\na,\"y,z\"\nb,w\n", "site": "#key,value\nhierarchicalattrs,postscripts\n"},
			"n1 groups=a,b label.xcat_postscripts=x,y,z,w", []string{"left site: "}},
		"cards": {map[string]string{"nodelist": list + "n1,\n", "hosts": "#node,ip\nn1,10.0.0.1\n", "mac": "#node,mac\nn1,52:54:00:00:00:01|52-54-00-00-00-02!*NOIP*|525400000003!n1-x|52:54:00:00:00:01!n1|80:00:00:00:fe:80:00:00:01|zz\n"},
			"n1 ip=10.0.0.1 mac=52:54:00:00:00:01,52:54:00:00:00:02,52:54:00:00:00:03",
			[]string{`left mac.mac of n1: "80:00:00:00:fe:80:00:00:01" is no Ethernet address`, "check mac.mac of n1: the table hosts has no address for the name of a card"}},
		"a bond": {map[string]string{"nodelist": list + "n1,\n", "hosts": "#node,ip,hostnames\nn1,10.0.0.1,n1-b\n", "mac": "#node,mac\nn1,52:54:00:00:00:01!n1|52:54:00:00:00:02!n1-b\n"},
			"n1 ip=10.0.0.1 mac=52:54:00:00:00:01,52:54:00:00:00:02", []string{"check mac.mac of n1: several cards have the same address"}},
		"no card has the node's name": {map[string]string{"nodelist": list + "n1,\n", "hosts": "#node,ip,otherinterfaces\nn1,10.0.0.1,n1-x:10.0.1.1\n", "mac": "#node,mac\nn1,52:54:00:00:00:01!n1-x\n"},
			"n1 ip=10.0.1.1 mac=52:54:00:00:00:01", []string{"left hosts.ip of n1: no card of mac.mac"}},
		"installnic": {map[string]string{"nodelist": list + "n1,\nn2,\nn3,\n", "mac": "#node,mac,interface\nn1,52:54:00:00:00:01|52:54:00:00:00:02!*NOIP*,eth0\nn2,52:54:00:00:00:04,eth0\nn3,52:54:00:00:00:05,eth0\n", "noderes": "#node,installnic,primarynic\nn1,52:54:00:00:00:02,x\nn2,eth0,\nn3,eth1,\n"},
			"n1 mac=52:54:00:00:00:02,52:54:00:00:00:01|n2 mac=52:54:00:00:00:04|n3 mac=52:54:00:00:00:05", []string{"left noderes.installnic of n3: Mimeo knows cards by their MAC", "check hosts.ip: it is not set"}},
		"one card and address, two nodes": {map[string]string{"nodelist": list + "n1,\nn2,\nn3,\n", "hosts": "#node,ip\nn1,10.0.0.1\nn2,10.0.0.2\nn3,10.0.0.1\n", "mac": "#node,mac\nn1,52:54:00:00:00:01\nn2,52:54:00:00:00:01\nn3,52:54:00:00:00:03\n"},
			"n1 ip=10.0.0.1 mac=52:54:00:00:00:01|n2|n3 mac=52:54:00:00:00:03", []string{"left mac.mac of n2: 52:54:00:00:00:01 belongs to n1", "left hosts.ip of n3: 10.0.0.1 belongs to n1"}},
		"addresses": {map[string]string{"nodelist": list + "n1,\nn2,\n", "hosts": "#node,ip\nn1,fd00::1\nn2,node2\n"}, "n1|n2",
			[]string{`left hosts.ip of n1: "fd00::1" is no IPv4 address`, `left hosts.ip of n2: "node2" is no IPv4`}},
		"BMCs": {map[string]string{"nodelist": list + "n1,a\nn2,a\nn3,a\nn4,a\nn5,a\nn6,a\n", "nodehm": hm + "a,,ipmi\nn6,kvm,ipmi\n", "ipmi": "#node,bmc,username,password\nn1,10.9.0.1,,\nn2,n2-bmc,,\nn3,\"10.9.0.3,10.9.0.4\",,\nn4,fd00::4,,\nn6,10.9.0.6,,\n", "hosts": "#node,ip,otherinterfaces\nn2,,-bmc:10.9.0.2\n"},
			"n1 bmc=ipmi://10.9.0.1 groups=a|n2 bmc=ipmi://10.9.0.2 groups=a|n3 groups=a|n4 bmc=ipmi://[fd00::4] groups=a|n5 groups=a|n6 groups=a",
			[]string{"left ipmi.bmc of n3: \"10.9.0.3,10.9.0.4\" is no address", "left nodehm.mgt of a: ipmi.bmc does not say", "left nodehm.power of n6: Mimeo switches power by IPMI and Redfish, and not by kvm", "left ipmi.bmc of n1: neither ipmi nor passwd", "left ipmi.bmc of n6: the node is not carried over, or xCAT has no use"}},
		"user and password go together": {map[string]string{"nodelist": list + "n1,\nn2,\nn3,\n", "nodehm": hm + "n1,,ipmi\nn2,,ipmi\nn3,,ipmi\n", "ipmi": "#node,bmc,username,password\nn1,10.9.0.1,ann,\nn2,10.9.0.2,,pw\nn3,10.9.0.3,,\n", "passwd": "#key,username,password,cryptmethod\nipmi,ops,dft,\nipmi,two,x,\nhmc,h,y,\n"},
			"n1 bmc=ipmi://10.9.0.1 bmc.user=ann|n2 bmc=ipmi://10.9.0.2 bmc.password=pw|n3 bmc=ipmi://10.9.0.3 bmc.password=dft bmc.user=ops",
			[]string{"check ipmi.username of n1: a user without a password", "check ipmi.password of n2: a password without a user", "left passwd.password of ipmi: a second user", "left passwd.password of hmc: Mimeo signs in to BMCs alone"}},
		"an encrypted password": {map[string]string{"nodelist": list + "n1,\n", "nodehm": hm + "n1,,ipmi\n", "ipmi": "#node,bmc\nn1,10.9.0.1\n", "passwd": "#key,username,password,cryptmethod\nipmi,ops,$6$x,sha512\n"},
			"n1 bmc=ipmi://10.9.0.1 bmc.user=ops", []string{"left passwd.password of ipmi: it is encrypted"}},
		"consoles": {map[string]string{"nodelist": list + "n1,\nn2,\nn3,\nn4,\n", "nodehm": hm + "n1,,,,0,115200,hard\nn2,,,,0,,\nn3,,,conserver,1,x,\nn4,,,,0,9600,soft\n"}, "n1 knobs.console=ttyS0,115200n8r|n2|n3|n4 knobs.console=ttyS0,9600",
			[]string{"left nodehm.serialport of n2: serialport without serialspeed", `left nodehm.serialport of n3: serialport "1" and serialspeed "x"`, "left nodehm.cons of n3: Mimeo reads a console through", "left nodehm.serialflow of n4", "check nodehm.mgt: it is not set"}},
		"kernel parameters": {map[string]string{"nodelist": list + "n1,\nn2,\nn3,\n", "bootparams": "#node,addkcmdline\nn1,a=1 R::b b\nn2,#table.x#\nn3,R::q\n"}, "n1 knobs.cmdline=a=1 b|n2|n3",
			[]string{"left bootparams.addkcmdline of n1: R::", "left bootparams.addkcmdline of n2: it has values of other tables", "left bootparams.addkcmdline of n3: R::"}},
		"firmware": {map[string]string{"nodelist": list + "n1,\nn2,\nn3,\nn4,\n", "nodetype": "#node,arch\nn1,ppc64le\nn2,ppc64le\nn3,aarch64\nn4,x86_64\n", "noderes": "#node,netboot\nn1,petitboot\nn2,grub2-http\nn3,grub2\nn4,grub2\n"},
			"n1 arch=ppc64el firmware=opal|n2 arch=ppc64el firmware=openfirmware|n3 arch=arm64 firmware=uefi|n4 arch=amd64", []string{"left noderes.netboot of n4: it does not tell BIOS from UEFI"}},
		"switch ports": {map[string]string{"nodelist": list + "n1,\n", "switch": "#node,switch,port,interface\nn1,sw1,1,primary:eth0\nn1,sw2,2,ib0\nn1,sw3,3,\n"}, "n1 label.switch=sw1 label.switch.ib0=sw2 label.switch_port=1 label.switch_port.ib0=2",
			[]string{"left switch.port of n1: a second port"}},
		"dynamic groups": {map[string]string{"nodelist": list + "n1,\nn2,\nn10,\n", "nodehm": hm + "n1,,ipmi\nn2,,hmc\n", "nodegroup": "#groupname,grouptype,wherevals\na,dynamic,mgt!=ipmi\nb,Dynamic,\"node=~/^n1/::mgt==ipmi\"\nc,dynamic,node!~0\nd,dynamic,nope==1\ne,dynamic,mgt\nf,dynamic,node=~(?=x)\ng,dynamic,groups==\n",
			"nodetype": "#node,os\na,fromdynamic\n"}, "n1 groups=b,c|n2 groups=a,c|n10",
			[]string{"left nodegroup.wherevals of d: it asks for the attribute nope", `left nodegroup.wherevals of e: "mgt" is none of`, "left nodegroup.wherevals of f:", "left nodegroup.wherevals of g: no node", "left nodetype.os of a: xCAT gives values of a group's row to those alone"}},
		"rows of nobody": {map[string]string{"nodelist": list + "n1,a\n", "nodetype": "#node,os,arch\nn9,x,\nn1,y,\na,z,\n", "hosts": "#node,ip,comments\nn1,,look\n"}, "n1 groups=a label.os=y",
			[]string{"left nodetype.os of n9: n9 is neither a node nor a group", "left nodetype.os of a: no node takes it", "left hosts.comments: a remark"}},
		"pattern letters of Mimeo's are no pattern of xCAT's": {map[string]string{"nodelist": list + "n1,a\n", "vpd": "#node,asset\na,{name}\n"}, "n1 groups=a label.asset={name}", nil},
	} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{}
			for table, text := range c.files {
				files[table+".csv"] = text
			}
			db, err := read(t, files)
			if err != nil {
				t.Fatal(err)
			}
			res := db.Import()
			if got := inEffectText(res); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			var notes []string
			for _, n := range res.Notes {
				at := n.Table
				if n.Column != "" {
					at += "." + n.Column
				}
				if n.Row != "" {
					at += " of " + n.Row
				}
				notes = append(notes, fmt.Sprintf("%s %s: %s", n.Kind, at, n.Why))
			}
			for _, want := range c.notes {
				if !slices.ContainsFunc(notes, func(n string) bool { return strings.Contains(n, want) }) {
					t.Errorf("no note with %q", want)
				}
			}
			accounted(t, db, res)
			if t.Failed() {
				t.Logf("notes:\n  %s", strings.Join(notes, "\n  "))
			}
		})
	}
}

func inEffectText(res *Result) string {
	var nodes []string
	for _, n := range res.Inventory.Nodes {
		words := []string{n.Name}
		values := inEffect(res.Inventory, n)
		for _, k := range slices.Sorted(maps.Keys(values)) {
			words = append(words, k+"="+values[k])
		}
		nodes = append(nodes, strings.Join(words, " "))
	}
	return strings.Join(nodes, "|")
}

// TestLift makes nodes at random, with values that come from groups or not, and looks that each has in effect what it
// had before values were said of groups.
func TestLift(t *testing.T) {
	r := rand.New(rand.NewSource(5))
	values := map[string][]string{"arch": {"amd64", "arm64"}, "knobs.console": {"ttyS0", "ttyS1"}, "label.x": {"1", "2", "{name}"}, "disk.serial": {"S"}, node.KeyPassword: {"p", "q"}}
	groups := []string{"a", "b", "c", "all", "no/name"}
	lifted := 0
	for range 2000 {
		im := &importer{}
		for i := range 1 + r.Intn(6) {
			d := &draft{name: node.Name(fmt.Sprintf("n%d", i)), values: map[string]value{}}
			for _, g := range r.Perm(3)[:r.Intn(4)] {
				d.groups = append(d.groups, groups[g])
			}
			for k, all := range values {
				v := value{text: all[r.Intn(len(all))]}
				if r.Intn(3) > 0 {
					v.group = groups[r.Intn(len(groups))]
				}
				if r.Intn(4) > 0 {
					d.values[k] = v
				}
			}
			im.drafts = append(im.drafts, d)
		}
		inv := im.lift()
		for i, item := range inv.Nodes {
			got, want := inEffect(inv, item), map[string]string{}
			for k, v := range im.drafts[i].values {
				want[k] = v.text
			}
			if g := im.drafts[i].groups; len(g) > 0 {
				want["groups"] = strings.Join(g, ",")
			}
			if !maps.Equal(got, want) {
				t.Fatalf("%s has %v, want %v, with groups %v", item.Name, got, want, inv.Groups)
			}
		}
		for _, g := range inv.Groups {
			for k, v := range g.Set {
				lifted++
				if _, err := node.CheckGroup(k, v); err != nil || g.Name == "all" || g.Name == "no/name" {
					t.Fatalf("group %s: %s=%q: %v", g.Name, k, v, err)
				}
			}
		}
	}
	if lifted < 1000 {
		t.Errorf("only %d values were said of groups", lifted)
	}
}

// check looks at what must hold of any import: Mimeo takes every name and value, and no card belongs to two nodes.
func check(t *testing.T, res *Result) {
	t.Helper()
	cards := map[string]bool{}
	for _, n := range res.Inventory.Nodes {
		if !node.IsName(n.Name) {
			t.Errorf("%q is no name", n.Name)
		}
		for k, v := range n.Set {
			if good, err := node.Check(k, v); err != nil || good != v {
				t.Errorf("%s: %s=%q: %q, %v", n.Name, k, v, good, err)
			}
		}
		for _, c := range append(node.List(n.Set["mac"]), node.List(n.Set["ip"])...) {
			if cards[c] && c != "-" {
				t.Errorf("%s belongs to two", c)
			}
			cards[c] = true
		}
		if len(node.List(n.Set["ip"])) > len(node.List(n.Set["mac"])) {
			t.Errorf("%s: ip=%s for mac=%s", n.Name, n.Set["ip"], n.Set["mac"])
		}
	}
	for _, g := range res.Inventory.Groups {
		if !node.IsGroup(g.Name) {
			t.Errorf("%q is no name for a group", g.Name)
		}
		for k, v := range g.Set {
			if _, err := node.CheckGroup(k, v); err != nil {
				t.Errorf("group %s: %s=%q: %v", g.Name, k, v, err)
			}
		}
	}
}
