package lab

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Somebody who can write where the store lies changes the record of an image: before a job is made, and while it waits
// for its turn. No node's disk is touched, until an admin vouches for the image.
func TestSignedImages(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short leaves the virtual rack out")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	t.Cleanup(cancel)
	config := filepath.Join(t.TempDir(), "mimeod.yaml")
	if err := os.WriteFile(config, []byte(quick+"jobs:\n  max_deploys: 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	l := &faultLab{t: t, ctx: ctx, Rack: newRack(t, ctx)}
	fakeStateless(t, l.State)
	startServer(t, ctx, l.Rack, "--config", config)
	var disks []string
	for _, name := range []string{"n01", "n02", "n03"} {
		disks = append(disks, filepath.Join(l.Dir, name+".img"))
	}
	smallDisk(t, disks[0])
	emptyDisk(t, disks[1], 64<<20)
	emptyDisk(t, disks[2], 64<<20)
	l.n1 = l.node("n01", 1, disks[0])
	l.n2 = l.node("n02", 2, disks[1])
	l.node("n03", 3, disks[2]).Dead = true
	l.done(l.start("capture", "n01", "--image", "web"))
	l.done(l.start("capture", "n01", "--image", "web"))

	record := filepath.Join(l.State, "store/images/web/1.json")
	read := func(file string) (rec map[string]any) {
		t.Helper()
		b, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(b, &rec)
		}
		if err != nil {
			t.Fatal(err)
		}
		return rec
	}
	change := func(key string, v any) {
		t.Helper()
		rec := read(record)
		rec[key] = v
		b, err := json.Marshal(rec)
		if err == nil {
			err = os.WriteFile(record, b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	good, other := read(record), read(filepath.Join(l.State, "store/images/web/2.json"))
	before := fileHash(t, disks[1])

	// n02 waits until n03, which never comes up, has been given up.
	l.start("deploy", "n03", "--image", "web@1", "--grow", "none", "--tries", "1")
	waits := l.start("deploy", "n02", "--image", "web@1", "--grow", "none", "--tries", "1")
	change("signatures", nil)
	if j := l.failed(waits, "web@1 is not signed", "nothing was written", "mimeo image sign web@1"); j.Touched {
		t.Error("the job says that the disk was touched")
	}

	refused := func(want string) {
		t.Helper()
		out, err := l.Run(ctx, "deploy", "n02", "--image", "web@1", "--grow", "none", "--yes")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %s, %v", want, out, err)
		}
	}
	refused("mimeo image sign web@1")
	change("id", other["id"])
	change("signatures", other["signatures"])
	refused("the signature by this management node")
	if out := mimeo(t, ctx, l.Rack, "image", "show", "web@1"); !strings.Contains(out, "WRONG signature") {
		t.Error(out)
	}
	change("signatures", good["signatures"])
	refused("is wrong")
	if fileHash(t, disks[1]) != before {
		t.Error("the disk was written to")
	}

	change("id", good["id"])
	change("signatures", nil)
	mimeo(t, ctx, l.Rack, "image", "sign", "web@1", "--yes")
	l.done(l.start("deploy", "n02", "--image", "web@1", "--grow", "none"))
	l.sameUsed()
}
