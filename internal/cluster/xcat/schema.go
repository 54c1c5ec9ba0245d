package xcat

// tableSpec is what is known of one of xCAT's tables, from its page in section 5 of xCAT's manual.
type tableSpec struct {
	key     string            // the column that names the row
	nodes   bool              // keyed by node or group
	several bool              // may have several rows of one key
	columns map[string]string // column → why it is left behind; "" where Import looks at it
	whole   bool              // noted row by row, not column by column
}

const (
	ownState = "xCAT's own record of what went on: Mimeo keeps its own"
	noServer = "it points at a server of xCAT's: nodes ask the management node of Mimeo"
	noDNS    = "Mimeo serves no names: keep DNS and /etc/hosts where they are"
)

// tableOrder is the order in which tables are listed.
var tableOrder = []string{"nodelist", "nodegroup", "hosts", "mac", "noderes", "nodetype", "nodehm", "ipmi", "openbmc", "passwd", "networks",
	"chain", "bootparams", "postscripts", "osimage", "linuximage", "vpd", "switch", "site"}

// schema is every table that is read. The columns "comments" and "disable" are in all of them.
var schema = map[string]tableSpec{
	"nodelist": {key: "node", nodes: true, columns: map[string]string{
		"groups": "", "comments": "", "hidden": "", "status": ownState, "statustime": ownState, "appstatus": ownState, "appstatustime": ownState,
		"updatestatus": ownState, "updatestatustime": ownState, "primarysn": "xCAT itself does not use it", "zonename": "Mimeo has no zones of SSH keys"}},
	"nodegroup": {key: "groupname", columns: map[string]string{
		"grouptype": "", "wherevals": "", "members": "xCAT itself takes the members from nodelist.groups", "membergroups": "Mimeo's groups hold nodes, and no groups"}},
	"hosts": {key: "node", nodes: true, columns: map[string]string{
		"ip": "", "hostnames": noDNS, "otherinterfaces": noDNS}},
	"mac": {key: "node", nodes: true, columns: map[string]string{
		"mac": "", "interface": "Mimeo knows network cards by their MAC address"}},
	"noderes": {key: "node", nodes: true, columns: map[string]string{
		"netboot": "", "installnic": "", "primarynic": "", "servicenode": "Mimeo has no service nodes", "tftpserver": noServer, "nfsserver": noServer, "xcatmaster": noServer,
		"monserver": noServer, "tftpdir": noServer, "nfsdir": noServer, "nameservers": "DHCP's name servers belong to an interface: dns in mimeod.yaml",
		"routenames":      "routes belong in the image, or in a postscript",
		"current_osimage": "xCAT itself does not use it", "next_osimage": "xCAT itself does not use it", "cmdinterface": "xCAT itself does not use it", "nimserver": "xCAT itself does not use it",
		"proxydhcp": "it belongs to an interface: dhcp: proxy in mimeod.yaml"}},
	"nodetype": {key: "node", nodes: true, columns: map[string]string{
		"os": "", "arch": "", "profile": "", "provmethod": "", "nodetype": "", "supportedarchs": "a node has one architecture"}},
	"nodehm": {key: "node", nodes: true, columns: map[string]string{
		"power": "", "mgt": "", "cons": "", "serialport": "", "serialspeed": "", "serialflow": "", "termserver": "Mimeo reads a console through the node's BMC alone",
		"termport": "Mimeo reads a console through the node's BMC alone", "conserver": "consoles are read by the management node itself",
		"getmac": "a node's cards are reported by the agent when it netboots", "cmdmapping": "only xCAT's PCM used it",
		"consoleondemand": "consoles are read by the management node itself", "consoleenabled": "consoles are read by the management node itself"}},
	"ipmi": {key: "node", nodes: true, columns: map[string]string{
		"bmc": "", "username": "", "password": "", "bmcport": "Mimeo does not set up BMCs: it stays as it is in the BMC", "taggedvlan": "Mimeo does not set up BMCs: it stays as it is in the BMC",
		"bmcid": ownState}},
	"openbmc": {key: "node", nodes: true, columns: map[string]string{
		"bmc": "", "username": "", "password": "", "taggedvlan": "Mimeo does not set up BMCs: it stays as it is in the BMC", "consport": "the console's port follows from the BMC's protocol"}},
	"passwd": {key: "key", several: true, whole: true, columns: map[string]string{
		"username": "", "password": "", "cryptmethod": "", "authdomain": "Mimeo's users are its own"}},
	"networks": {key: "net", several: true, columns: map[string]string{
		"netname": "", "net": "", "mask": "", "mgtifname": "", "gateway": "", "nameservers": "", "dynamicrange": "", "domain": ""}, whole: true},
	"chain": {key: "node", nodes: true, columns: map[string]string{
		"currstate": ownState, "currchain": ownState, "ondiscover": "xCAT itself does not use it", "chain": "what a node does when it is found anew is for a person to say: mimeo boot, mimeo deploy"}},
	"bootparams": {key: "node", nodes: true, columns: map[string]string{
		"addkcmdline": "", "kernel": ownState, "initrd": ownState, "kcmdline": ownState, "dhcpstatements": ownState, "adddhcpstatements": "Mimeo's DHCP takes no statements of ISC's server"}},
	"postscripts": {key: "node", nodes: true, columns: map[string]string{
		"postscripts": "", "postbootscripts": ""}},
	"osimage":    {key: "imagename", whole: true},
	"linuximage": {key: "imagename", whole: true},
	"vpd": {key: "node", nodes: true, columns: map[string]string{
		"serial": "", "mtm": "", "asset": "", "uuid": "", "side": "it belongs to a frame of System p"}},
	"switch": {key: "node", nodes: true, several: true, columns: map[string]string{
		"switch": "", "port": "", "interface": "", "vlan": "Mimeo does not set up switches"}},
	"site": {key: "key", whole: true},
}

// attribute is where lsdef's attribute of a node or group lies in the tables.
type attribute struct{ table, column string }

// nodeAttributes are lsdef's words for cells, where they lie in a table that is read. bmc, bmcusername, bmcpassword and
// bmcvlantag lie in openbmc or ipmi, as the attribute mgt says.
var nodeAttributes = map[string]attribute{
	"node": {"nodelist", "node"}, "groups": {"nodelist", "groups"}, "usercomment": {"nodelist", "comments"}, "hidden": {"nodelist", "hidden"}, "status": {"nodelist", "status"},
	"statustime": {"nodelist", "statustime"}, "appstatus": {"nodelist", "appstatus"}, "appstatustime": {"nodelist", "appstatustime"}, "primarysn": {"nodelist", "primarysn"},
	"updatestatus": {"nodelist", "updatestatus"}, "updatestatustime": {"nodelist", "updatestatustime"}, "zonename": {"nodelist", "zonename"},
	"ip": {"hosts", "ip"}, "hostnames": {"hosts", "hostnames"}, "otherinterfaces": {"hosts", "otherinterfaces"},
	"mac": {"mac", "mac"}, "interface": {"mac", "interface"},
	"servicenode": {"noderes", "servicenode"}, "netboot": {"noderes", "netboot"}, "tftpserver": {"noderes", "tftpserver"}, "tftpdir": {"noderes", "tftpdir"},
	"nfsserver": {"noderes", "nfsserver"}, "nfsdir": {"noderes", "nfsdir"}, "monserver": {"noderes", "monserver"}, "installnic": {"noderes", "installnic"},
	"primarynic": {"noderes", "primarynic"}, "xcatmaster": {"noderes", "xcatmaster"}, "nimserver": {"noderes", "nimserver"}, "routenames": {"noderes", "routenames"},
	"nameservers": {"noderes", "nameservers"}, "supportproxydhcp": {"noderes", "proxydhcp"}, "syslog": {"noderes", "syslog"},
	"os": {"nodetype", "os"}, "arch": {"nodetype", "arch"}, "profile": {"nodetype", "profile"}, "provmethod": {"nodetype", "provmethod"},
	"supportedarchs": {"nodetype", "supportedarchs"}, "nodetype": {"nodetype", "nodetype"},
	"power": {"nodehm", "power"}, "mgt": {"nodehm", "mgt"}, "cons": {"nodehm", "cons"}, "termserver": {"nodehm", "termserver"}, "termport": {"nodehm", "termport"},
	"conserver": {"nodehm", "conserver"}, "serialport": {"nodehm", "serialport"}, "serialspeed": {"nodehm", "serialspeed"}, "serialflow": {"nodehm", "serialflow"},
	"getmac": {"nodehm", "getmac"}, "cmdmapping": {"nodehm", "cmdmapping"}, "consoleondemand": {"nodehm", "consoleondemand"}, "consoleenabled": {"nodehm", "consoleenabled"},
	"bmc": {"ipmi", "bmc"}, "bmcport": {"ipmi", "bmcport"}, "bmcvlantag": {"ipmi", "taggedvlan"}, "bmcusername": {"ipmi", "username"}, "bmcpassword": {"ipmi", "password"},
	"consport":  {"openbmc", "consport"},
	"currstate": {"chain", "currstate"}, "currchain": {"chain", "currchain"}, "chain": {"chain", "chain"}, "ondiscover": {"chain", "ondiscover"},
	"kernel": {"bootparams", "kernel"}, "initrd": {"bootparams", "initrd"}, "kcmdline": {"bootparams", "kcmdline"}, "addkcmdline": {"bootparams", "addkcmdline"},
	"postscripts": {"postscripts", "postscripts"}, "postbootscripts": {"postscripts", "postbootscripts"},
	"serial": {"vpd", "serial"}, "mtm": {"vpd", "mtm"}, "side": {"vpd", "side"}, "asset": {"vpd", "asset"}, "uuid": {"vpd", "uuid"},
	"switch": {"switch", "switch"}, "switchport": {"switch", "port"}, "switchvlan": {"switch", "vlan"}, "switchinterface": {"switch", "interface"},
}

// inOpenBMC are attributes that lie in the table openbmc for nodes whose mgt is openbmc.
var inOpenBMC = map[string]bool{"bmc": true, "bmcvlantag": true, "bmcusername": true, "bmcpassword": true}
