package lab

import (
	"context"
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/lab/rack"
)

// entry is what petitboot starts by itself.
type entry struct{ kernel, initrd, appended string }

// petitboot does what the boot loader of OPAL machines does on a network card, and gives the entry that it starts, or
// nil where it goes on to the disk: it asks by BusyBox's udhcpc with architecture 14 for options 209 and 210, fetches the
// configuration that 209 names, and reads it. It is not to be had as a package, and needs an OPAL machine.
func petitboot(t *testing.T, ctx context.Context, r *rack.Rack, mac string) *entry {
	t.Helper()
	dir, ns := t.TempDir(), fmt.Sprintf("%s-pb", r.Net.Name)
	sh := func(line string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(ctx, "sh", append([]string{"-ec", line, "sh"}, args...)...)
		var errs strings.Builder
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("petitboot: %s: %v: %s", line, err, errs.String())
		}
		return string(out)
	}
	sh(`ip netns add "$1"; ip -n "$1" link set lo up
		ip -n "$2" link add vpb type veth peer name eth0 address "$3" netns "$1"
		ip -n "$2" link set vpb master "$4" up; ip -n "$1" link set eth0 up`, ns, r.Net.Name, mac, r.Net.Bridge)
	defer sh(`ip netns del "$1"; while ip -n "$2" link show vpb >/dev/null 2>&1; do sleep 0.1; done`, ns, r.Net.Name)
	script := filepath.Join(dir, "script")
	err := os.WriteFile(script, []byte("#!/bin/sh\n[ \"$1\" = bound ] || exit 0\nip addr add $ip/24 dev eth0\necho \"$pxeconffile\" >"+dir+"/config\necho \"$pxepathprefix\" >"+dir+"/prefix\n"), 0o755)
	if err != nil {
		t.Fatal(err)
	}
	sh(`ip netns exec "$1" busybox udhcpc -f -q -n -i eth0 -x 0x5d:000e -O pxeconffile -O pxepathprefix -s "$2" >/dev/null`, ns, script)
	url := strings.TrimSpace(sh(`cat "$1/config"`, dir))
	if prefix := strings.TrimSpace(sh(`cat "$1/prefix"`, dir)); prefix == "" || !strings.HasPrefix(url, prefix) {
		t.Errorf("option 210 is %q, 209 %q", prefix, url)
	}
	e := parsePetitboot(t, sh(`ip netns exec "$1" curl -sSf "$2"`, ns, url))
	if e != nil {
		for i, u := range []*string{&e.kernel, &e.initrd} {
			file := filepath.Join(dir, fmt.Sprint(i))
			sh(`ip netns exec "$1" curl -sSf -o "$2" "$3"`, ns, file, *u)
			*u = file
		}
	}
	return e
}

// parsePetitboot reads a configuration as petitboot's pxe parser does: pairs of a name and the rest of the line; "#"
// starts a remark; names are read without regard to case; the entry that DEFAULT names is started.
func parsePetitboot(t *testing.T, text string) *entry {
	t.Helper()
	entries, def, label := map[string]*entry{}, "", ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, _ := strings.Cut(line, " ")
		value = strings.TrimSpace(value)
		if e := entries[label]; e != nil {
			switch strings.ToUpper(name) {
			case "KERNEL":
				e.kernel = value
			case "INITRD":
				e.initrd = value
			case "APPEND":
				e.appended = value
			}
		}
		switch strings.ToUpper(name) {
		case "DEFAULT":
			def = value
		case "LABEL":
			label, entries[value] = value, &entry{}
		case "KERNEL", "INITRD", "APPEND":
		default:
			t.Errorf("petitboot knows no %q", name)
		}
	}
	e := entries[def]
	if e != nil && (e.kernel == "" || e.initrd == "" || e.appended == "") {
		t.Errorf("the entry lacks something: %+v", *e)
	}
	return e
}

// learntOPAL is what is said of the machine.
var learntOPAL = regexp.MustCompile(`(?m)^firmware +opal\b[\s\S]*^arch +ppc64el\b|^arch +ppc64el\b[\s\S]*^firmware +opal\b`)

// opal asks as an OPAL machine does for what it boots: for its disk, a capture, and a deploy of an image.
func opal(t *testing.T, ctx context.Context, r *rack.Rack, image string) {
	const name, mac = "o01", "52:54:00:77:19:01"
	mimeo(t, ctx, r, "node", "add", name, "--mac", mac, "--set", "knobs.console=hvc0")
	if e := petitboot(t, ctx, r, mac); e != nil {
		t.Errorf("for the disk there is an entry: %+v", *e)
	}
	// What it is was learnt from its request, which is written down beside the answer.
	show := ""
	for range 100 {
		if show = mimeo(t, ctx, r, "node", "show", name); learntOPAL.MatchString(show) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if !learntOPAL.MatchString(show) {
		t.Errorf("its firmware and architecture were not learnt:\n%s", show)
	}
	for _, kind := range []string{"capture", "deploy"} {
		var jobs []api.Job
		if err := json.Unmarshal([]byte(mimeo(t, ctx, r, kind, name, "--image", map[string]string{"capture": "opal", "deploy": image}[kind], "--json")), &jobs); err != nil {
			t.Fatal(err)
		}
		e := petitboot(t, ctx, r, mac)
		if e == nil || !strings.Contains(e.appended, "mimeo.token=job."+jobs[0].ID+"."+name) {
			t.Fatalf("for a %s the entry is %+v", kind, e)
		}
		f, err := elf.Open(e.kernel)
		if err != nil || f.Machine != elf.EM_PPC64 {
			t.Fatalf("for a %s the kernel is %v, %v", kind, f, err)
		}
		f.Close()
		mimeo(t, ctx, r, "job", "cancel", jobs[0].ID)
	}
	if e := petitboot(t, ctx, r, mac); e != nil {
		t.Errorf("after the jobs there is an entry: %+v", *e)
	}
}
