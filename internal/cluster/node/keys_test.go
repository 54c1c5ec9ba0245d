package node

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestCheck(t *testing.T) {
	for _, tc := range []struct{ key, in, out, wrong string }{
		{"mac", "52-54-00-AB-00-01, 5254.00ab.0002", "52:54:00:ab:00:01,52:54:00:ab:00:02", ""},
		{"mac", "52:54:00:00:00:01,52-54-00-00-00-01", "", "twice"},
		{"mac", "00:11:22:33:44:55:66:77", "", "no MAC"},
		{"ip", "10.0.0.1", "10.0.0.1", ""},
		{"ip", "-,10.0.0.1,-", "-,10.0.0.1", ""},
		{"ip", "-", "", ""},
		{"ip", "fe80::1", "", "no IPv4"},
		{"ip", "10.0.0.1,10.0.0.1", "", "twice"},
		{"bmc", "ipmi://10.0.9.1:6230", "ipmi://10.0.9.1:6230", ""},
		{"bmc", "ipmi://ops:secret@10.0.9.1", "", "bmc.password"},
		{"bmc", "10.0.9.1", "", "want ipmi://"},
		{"bmc.insecure", "1", "true", ""},
		{"bmc.insecure", "F", "false", ""},
		{"bmc.insecure", "maybe", "", "true or false"},
		{"bmc.cipher_suite", "4", "", "none of"},
		{"arch", "x86_64", "", "none of amd64, arm64, ppc64el"},
		{"groups", "b, a,b", "b,a", ""},
		{"groups", "all", "", "anyhow"},
		{"groups", "a]", "", "no name"},
		{"disk.min_size", "400 GB", "400G", ""},
		{"disk.min_size", "10GiB", "10GiB", ""},
		{"disk.min_size", "-1", "", "want bytes"},
		{"disk.min_size", "1i", "", "want bytes"},
		{"disk.max_size", "99999999T", "", "too large"},
		{"knobs.console", "ttyS0 init=/bin/sh", "", "no console"},
		{"knobs.cmdline", "a\nb", "", "no text"},
		{"hostname", " a.example ", "a.example", ""},
		{"label.row", "two\nlines", "two\nlines", ""},
		{"label.", "x", "", "no name for a label"},
		{"label.a b", "x", "", "no name for a label"},
		{"label.postscripts.post", "a.sh,b.sh", "a.sh,b.sh", ""},
		{"label.postscripts.post", "../a", "", "no name of a postscript"},
		{"label.postscripts.now", "a", "", "no stage"},
		{"label.x", "a\xffb", "", "no text"},
		{"label.x", strings.Repeat("x", 9000), "", "more than"},
		{"bmc.password", " any thing ", " any thing ", ""},
		{"colour", "red", "", "no such key; free ones begin with label."},
		{"password", "x", "", "is it bmc.password?"},
		{"serial", "x", "", "is it disk.serial?"},
		{"Arch", "amd64", "", "is it arch?"},
		{"arch", "", "", ""},
	} {
		got, err := Check(tc.key, tc.in)
		if tc.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), tc.wrong) {
				t.Errorf("%s %q: %v, want %s", tc.key, tc.in, err, tc.wrong)
			}
			continue
		}
		if err != nil || got != tc.out {
			t.Errorf("%s %q: %q, %v; want %q", tc.key, tc.in, got, err, tc.out)
		}
		if again, err := Check(tc.key, got); err != nil || again != got {
			t.Errorf("%s: checked again, %q becomes %q, %v", tc.key, got, again, err)
		}
	}
}

// Every key can be put into a node and read from it.
func TestKeysAreWhole(t *testing.T) {
	own := Values{"groups": "b,a", "mac": "52:54:00:00:00:01,52:54:00:00:00:02", "ip": "-,10.0.0.2", "bmc": "ipmi://10.0.9.1", "bmc.user": "u", "bmc.insecure": "true", "bmc.cipher_suite": "3", "arch": "arm64", "firmware": "uefi",
		"profile": "p", "hostname": "h", "disk.serial": "s", "disk.wwn": "w", "disk.bus": "nvme", "disk.by_path": "p", "disk.min_size": "1G", "disk.max_size": "1GiB",
		"knobs.disk_boot": "exit", "knobs.loader": "own", "knobs.nvram": "off", "knobs.console": "ttyS0", "knobs.cmdline": "a b", "label.row": "7"}
	for _, k := range Keys() {
		if own[k] == "" && k != KeyPassword {
			t.Errorf("the test has no %s", k)
		}
	}
	for k, v := range own {
		if got, err := Check(k, v); err != nil || got != v {
			t.Errorf("%s: %q, %v", k, got, err)
		}
	}
	n := Node{Name: "n1", LastImage: "web@1", Groups: []string{"old"}, Labels: map[string]string{"old": "x"}}
	Sources{Own: own}.Fill(&n)
	if diff := cmp.Diff(own, n.Said()); diff != "" {
		t.Error(diff)
	}
	if n.NICs[1] != (NIC{MAC: "52:54:00:00:00:02", IP: "10.0.0.2"}) || n.Disk.MaxSize != 1<<30 || !n.BMC.Insecure || n.LastImage != "web@1" {
		t.Errorf("%+v", n)
	}
	n.Blank()
	if diff := cmp.Diff(Node{Name: "n1", LastImage: "web@1"}, n); diff != "" {
		t.Error(diff)
	}
}

func TestSizes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.OneOf(rapid.Int64Range(0, 1<<62), rapid.Map(rapid.Int64Range(0, 5000), func(n int64) int64 { return n * 1e9 }), rapid.Map(rapid.Int64Range(0, 5000), func(n int64) int64 { return n << 30 })).Draw(t, "n")
		if got, err := ParseSize(FormatSize(n)); err != nil || got != n {
			t.Fatalf("%d is written %q and read %d, %v", n, FormatSize(n), got, err)
		}
	})
	for in, want := range map[string]int64{"200G": 200e9, "1.5T": 15e11, "512 GiB": 512 << 30, "7": 7, "3K": 3000, "2MiB": 2 << 20, "10B": 10} {
		if got, err := ParseSize(in); err != nil || got != want {
			t.Errorf("%q: %d, %v", in, got, err)
		}
	}
	for _, in := range []string{"G", "1GG", "NaN", "Inf", "1e30", "0x10", "1 2"} {
		if got, err := ParseSize(in); err == nil {
			t.Errorf("%q: %d", in, got)
		}
	}
}

func TestInherit(t *testing.T) {
	for _, tc := range []struct{ key, value, name, want string }{
		{"bmc", "redfish://10.0.9.{n}", "rack1n007", "redfish://10.0.9.7"},
		{"bmc", "redfish://{name}-bmc/{n}", "n10", "redfish://n10-bmc/10"},
		{"label.x", "{n}{name}{x}{", "a0", "0a0{x}{"},
		{"bmc.user", "{n}", "n7", "{n}"},
		{"hostname", "{name}.example", "login", "login.example"},
		{"bmc", "redfish://10.0.9.{n}", "login", ""},
	} {
		got, err := Inherit(tc.key, tc.value, Name(tc.name))
		if got != tc.want || (err != nil) != (tc.want == "") {
			t.Errorf("%+v: %q, %v", tc, got, err)
		}
	}
}
