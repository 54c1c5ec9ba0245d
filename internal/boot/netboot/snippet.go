package netboot

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/template"

	"mimeo/internal/cluster/node"
)

// DHCPServers are the programs for which Snippet writes configuration.
var DHCPServers = []string{"dnsmasq", "isc", "kea"}

// Site is what somebody else's DHCP server must know of ours.
type Site struct {
	Server netip.Addr // that nodes load from by TFTP
	Base   string     // boot server as nodes reach it: http://ADDRESS:PORT
	Nodes  []node.Node
	Again  string // command that prints it anew
}

// group is a set of nodes that load the same.
type group struct {
	Tag   string
	IPXE  string // boot file of an iPXE, or "" where none is expected
	Rows  []row
	Hosts []host
}

// row is a firmware and what it loads.
type row struct {
	Tag   string
	Codes []uint16 // of option 93
	File  string
	HTTP  bool
}

// host is a network card of a node.
type host struct {
	ID, Name, MAC, IP string
	Config            string // OPAL: option 209
}

// rows are the firmwares that say who they are.
var rows = []row{
	{Tag: "bios", Codes: []uint16{archBIOS}},
	{Tag: "efi-x64", Codes: []uint16{archUEFIx64, archEBC}},
	{Tag: "efi-arm64", Codes: []uint16{archUEFIarm64}},
	{Tag: "http-x64", Codes: []uint16{archHTTPx64, archHTTPebc}, HTTP: true},
	{Tag: "http-arm64", Codes: []uint16{archHTTParm64}, HTTP: true},
}

// Snippet writes the part of a DHCP server's configuration that has the nodes of a site boot from it, as Decide would
// have them. Other machines are left alone. The server is one of DHCPServers.
func Snippet(w io.Writer, server string, site Site) error {
	t := snippets.Lookup(server)
	if t == nil {
		return fmt.Errorf("%q: want %s", server, strings.Join(DHCPServers, ", "))
	}
	return t.Execute(w, struct {
		Site
		Groups []group
	}{site, groups(site)})
}

// groups sorts the nodes by what they load.
func groups(site Site) []group {
	plain := group{Tag: "mimeo", IPXE: site.Base + PathLoaders + FileAutoexec}
	shim := group{Tag: "mimeo-shim", IPXE: plain.IPXE}
	var of []group // one for each card: each asks for a file of its own
	for _, r := range rows {
		for g, knobs := range map[*group]node.Knobs{&plain: {}, &shim: {Loader: KnobLoaderSecure}} {
			ask := Identify(Wire{Archs: r.Codes})
			ask.Base, ask.Mode = site.Base, Full
			r.File = Decide(node.Node{Knobs: knobs}, ask).File()
			g.Rows = append(g.Rows, r)
		}
	}
	for _, n := range site.Nodes {
		g := &plain
		switch {
		case n.Knobs.Loader == KnobLoaderSecure:
			g = &shim
		case n.Firmware == node.OpenFirmware:
			g = nil
		}
		for i, nic := range n.NICs {
			if nic.MAC == "" {
				continue
			}
			h := host{ID: string(n.Name), Name: string(n.Name), MAC: nic.MAC, IP: nic.IP}
			if n.Hostname != "" {
				h.Name = n.Hostname
			}
			if i > 0 {
				h.ID = fmt.Sprintf("%s-%d", n.Name, i+1)
			}
			if g == nil {
				// Its DISCOVER says nothing of itself: the card alone tells it.
				file := Decide(n, Ask{Firmware: node.OpenFirmware, Arch: node.PPC64EL, Mode: Full, MAC: nic.MAC}).File()
				of = append(of, group{Tag: "mimeo-of-" + h.ID, Rows: []row{{File: file}}, Hosts: []host{h}})
				continue
			}
			if n.Arch == node.PPC64EL && g == &plain {
				h.Config = Decide(n, Ask{Firmware: node.OPAL, Arch: node.PPC64EL, Mode: Full, Base: site.Base, MAC: nic.MAC}).Config
			}
			g.Hosts = append(g.Hosts, h)
		}
	}
	var out []group
	for _, g := range append([]group{plain, shim}, of...) {
		if len(g.Hosts) > 0 {
			out = append(out, g)
		}
	}
	return out
}

var snippets = template.Must(template.New("").Funcs(template.FuncMap{
	"hex": func(c uint16) string { return fmt.Sprintf("%02x:%02x", c>>8, c&255) },
}).Parse(snippetText))

const snippetText = `
{{- define "dnsmasq" -}}
# How the nodes of Mimeo boot, for dnsmasq: a file of /etc/dnsmasq.d, beside the dhcp-range of your own.
# Print it anew when nodes come, go or change: {{.Again}}
dhcp-match=set:mimeo-ipxe,175
dhcp-userclass=set:mimeo-ipxe,iPXE
dhcp-match=set:mimeo-bios,option:client-arch,0
dhcp-match=set:mimeo-efi-x64,option:client-arch,7
dhcp-match=set:mimeo-efi-x64,option:client-arch,9
dhcp-match=set:mimeo-efi-arm64,option:client-arch,11
dhcp-match=set:mimeo-http-x64,option:client-arch,16
dhcp-match=set:mimeo-http-x64,option:client-arch,17
dhcp-match=set:mimeo-http-arm64,option:client-arch,19
dhcp-match=set:mimeo-opal,option:client-arch,14
{{range $g := .Groups}}{{range .Hosts}}
dhcp-host={{.MAC}},set:{{$g.Tag}}{{if .Config}},set:mimeo-{{.ID}}{{end}}{{with .IP}},{{.}}{{end}},{{.Name}}
{{- if .Config}}
dhcp-option-force=tag:mimeo-{{.ID}},tag:mimeo-opal,209,"{{.Config}}"{{end}}{{end}}
{{- with .IPXE}}
dhcp-boot=tag:{{$g.Tag}},tag:mimeo-ipxe,{{.}},,{{$.Server}}
dhcp-option-force=tag:{{$g.Tag}},tag:mimeo-ipxe,encap:175,176,1b{{end}}
{{- range .Rows}}
dhcp-boot=tag:{{$g.Tag}}{{with .Tag}},tag:!mimeo-ipxe,tag:mimeo-{{.}}{{end}},{{.File}},,{{$.Server}}
{{- if .HTTP}}
dhcp-option-force=tag:{{$g.Tag}},tag:!mimeo-ipxe,tag:mimeo-{{.Tag}},60,HTTPClient{{end}}{{end}}
{{end}}{{end}}

{{- define "isc" -}}
# How the nodes of Mimeo boot, for ISC dhcpd: include it in dhcpd.conf, beside the subnet declarations of your own.
# Print it anew when nodes come, go or change: {{.Again}}
option space mimeo-ipxe;
option mimeo-ipxe-encap code 175 = encapsulate mimeo-ipxe;
option mimeo-ipxe.no-pxedhcp code 176 = unsigned integer 8;
option mimeo-arch code 93 = unsigned integer 16;
option mimeo-config code 209 = text;
{{range .Groups}}
group {
  next-server {{$.Server}};
{{- with .IPXE}}
  if exists mimeo-ipxe-encap or option user-class = "iPXE" {
    filename "{{.}}";
    option mimeo-ipxe.no-pxedhcp 1;
  }{{end}}
{{- $ipxe := .IPXE}}{{range .Rows}}{{if .Codes}} elsif {{range $i, $c := .Codes}}{{if $i}} or {{end}}option mimeo-arch = {{hex $c}}{{end}} {
    filename "{{.File}}";{{if .HTTP}}
    option vendor-class-identifier "HTTPClient";{{end}}
  }{{else}}
  filename "{{.File}}";{{end}}{{end}}
{{- range .Hosts}}
  host {{.ID}} {
    hardware ethernet {{.MAC}};{{with .IP}}
    fixed-address {{.}};{{end}}
    option host-name "{{.Name}}";{{with .Config}}
    if option mimeo-arch = 00:0e { option mimeo-config "{{.}}"; }{{end}}
  }{{end}}
}
{{end}}{{end}}

{{- define "kea" -}}
// How the nodes of Mimeo boot, for Kea: part of "Dhcp4", beside the subnet4 of your own. Where "Dhcp4" has one of
// these lists already, join the two.
// Print it anew when nodes come, go or change: {{.Again}}
"option-def": [
  { "name": "mimeo-ipxe", "code": 175, "space": "dhcp4", "type": "binary" },
  { "name": "mimeo-config", "code": 209, "space": "dhcp4", "type": "string" }
],
"client-classes": [
{{- range $i, $g := .Groups}}{{if $i}},{{end}}
  { "name": "{{.Tag}}" }
{{- with .IPXE}},
  { "name": "{{$g.Tag}}-ipxe", "test": "member('KNOWN') and member('{{$g.Tag}}') and (option[175].exists or option[77].text == 'iPXE')",
    "next-server": "{{$.Server}}", "boot-file-name": "{{.}}",
    "option-data": [ { "name": "mimeo-ipxe", "csv-format": false, "data": "B00101", "always-send": true } ] }{{end}}
{{- range .Rows}},
  { "name": "{{$g.Tag}}-{{or .Tag "boot"}}", "test": "member('KNOWN') and member('{{$g.Tag}}')
{{- if .Codes}} and not member('{{$g.Tag}}-ipxe') and ({{range $i, $c := .Codes}}{{if $i}} or {{end}}option[93].hex == 0x{{printf "%04x" $c}}{{end}}){{end}}",
    {{if .HTTP}}"option-data": [ { "name": "vendor-class-identifier", "data": "HTTPClient", "always-send": true } ],
    {{end}}"next-server": "{{$.Server}}", "boot-file-name": "{{.File}}" }{{end}}{{end}}
],
"reservations-global": true,
"reservations-in-subnet": true,
"reservations": [
{{- $first := true}}{{range $g := .Groups}}{{range .Hosts}}{{if $first}}{{$first = false}}{{else}},{{end}}
  { "hw-address": "{{.MAC}}", "hostname": "{{.Name}}", "client-classes": [ "{{$g.Tag}}" ]
{{- with .IP}}, "ip-address": "{{.}}"{{end}}
{{- with .Config}},
    "option-data": [ { "name": "mimeo-config", "data": "{{.}}" } ]{{end}} }{{end}}{{end}}
]
{{end}}`
