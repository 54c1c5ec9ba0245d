package netboot

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"mimeo/internal/cluster/node"
)

var update = flag.Bool("update", false, "write what the code says now into the tables")

// table runs the cases of a file: words of input, a line "----", the text that must come out, an empty line.
func table(t *testing.T, path string, f func(t *testing.T, in input) string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for i, block := range strings.Split(strings.TrimRight(string(b), "\n"), "\n\n") {
		in, want, _ := strings.Cut(block, "\n----")
		want = strings.TrimPrefix(want, "\n")
		got := strings.TrimRight(f(t, parseInput(t, in)), "\n")
		if got != strings.TrimRight(want, "\n") && !*update {
			t.Errorf("%s, case %d:\n%s\n---- gives\n%s\n---- and not\n%s", path, i+1, in, got, want)
		}
		if i > 0 {
			out.WriteString("\n")
		}
		fmt.Fprintf(&out, "%s\n----\n%s\n", in, got)
	}
	if *update {
		if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// input is key=value words, one or more a line; # starts a comment line. A value may be quoted as in Go.
type input map[string]string

func parseInput(t *testing.T, s string) input {
	t.Helper()
	in := input{}
	for _, line := range strings.Split(s, "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
			key, rest, ok := strings.Cut(line, "=")
			if !ok {
				t.Fatalf("%q is not key=value", line)
			}
			if strings.HasPrefix(rest, `"`) {
				q, err := strconv.QuotedPrefix(rest)
				if err != nil {
					t.Fatalf("%q: %v", rest, err)
				}
				v, _ := strconv.Unquote(q)
				in[key], line = v, rest[len(q):]
				continue
			}
			in[key], line, _ = strings.Cut(rest, " ")
		}
	}
	return in
}

func (in input) node() node.Node {
	return node.Node{Name: "n07", Boot: node.BootState(in["boot"]), Profile: in["profile"],
		Firmware: node.Firmware(in["node.firmware"]), Arch: node.Arch(in["node.arch"]), Knobs: in.knobs()}
}

func (in input) knobs() node.Knobs {
	return node.Knobs{DiskBoot: in["disk_boot"], Loader: in["loader"], Console: in["console"], Cmdline: in["cmdline"]}
}

// TestDecide goes from the options of a DHCP request to the offer.
func TestDecide(t *testing.T) {
	table(t, "testdata/decide.txt", func(t *testing.T, in input) string {
		w := Wire{VendorClass: in["class"], UserClass: []byte(in["user"]), HasIPXE: in["175"] != "", Params: []byte(in["params"])}
		for _, a := range strings.FieldsFunc(in["93"], func(r rune) bool { return r == ',' }) {
			n, err := strconv.ParseUint(a, 10, 16)
			if err != nil {
				t.Fatal(err)
			}
			w.Archs = append(w.Archs, uint16(n))
		}
		ask := Identify(w)
		ask.MAC, ask.Base, ask.Mode = "52:54:00:12:34:56", "http://10.77.0.1:4480", Full
		o := Decide(in.node(), ask)
		text := fmt.Sprintf("%s: %s\n", strings.TrimSpace(string(o.Decision)+" "+o.Profile), o.Why)
		if o.Firmware != "" || o.Arch != "" {
			text += fmt.Sprintf("asked by %s %s, iPXE %v\n", o.Firmware, o.Arch, ask.IPXE)
		}
		if o.File() != "" || o.Config != "" {
			text += fmt.Sprintf("%s script after %s%s\n", o.Script, o.File(), o.Config)
		}
		return text
	})
}

// TestRender compares scripts. Words that are not given are those of a whole example.
func TestRender(t *testing.T) {
	table(t, "testdata/scripts.txt", func(t *testing.T, in input) string {
		or := func(key, def string) string {
			if v, ok := in[key]; ok {
				return v
			}
			return def
		}
		secs, _ := strconv.Atoi(in["after"])
		s := Script{
			Kind: Kind(or("kind", "ipxe")), Decision: Decision(or("decision", "stateless")), Node: node.Name(or("node", "n07")),
			Why: or("why", "boot state is capture"), Firmware: node.Firmware(or("firmware", "bios")),
			Arch: node.Arch(or("arch", "amd64")), Knobs: in.knobs(),
			Kernel:  or("kernel", "http://10.77.0.1:4480/stateless/imaging/amd64/b1/vmlinuz"),
			Initrd:  or("initrd", "http://10.77.0.1:4480/stateless/imaging/amd64/b1/initrd.img"),
			RootImg: or("rootimg", "http://10.77.0.1:4480/stateless/imaging/amd64/b1/rootimg"),
			RootSum: or("rootsum", "5a5a"), Build: or("build", "b1"), Server: or("server", "https://10.77.0.1:4443"),
			Pin: or("pin", "c3c3"), Token: or("token", "t0k3n"), MAC: or("mac", "52:54:00:12:34:56"),
			Time: time.Unix(1790000000, 0), Host: in["host"], Init: in["init"], DiskLoader: in["disk_loader"],
			Again: or("again", "http://10.77.0.1:4480/boot/ipxe/52-54-00-12-34-56?arch=amd64&firmware=bios"),
			After: time.Duration(secs) * time.Second,
		}
		var b strings.Builder
		if err := Render(&b, s); err != nil {
			if b.Len() > 0 {
				t.Errorf("an error and %d bytes", b.Len())
			}
			return "error: " + err.Error()
		}
		return b.String()
	})
}

func TestAutoexec(t *testing.T) {
	table(t, "testdata/autoexec.txt", func(t *testing.T, in input) string {
		f := Autoexec
		if in["kind"] == "grub" {
			f = GRUBConfig
		}
		text, err := f(in["base"])
		if err != nil {
			return "error: " + err.Error()
		}
		return text
	})
}
