package server

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"mimeo/internal/cluster/api"
	"mimeo/internal/manage/config"
)

func sh(t *testing.T, script string, args ...string) {
	t.Helper()
	if out, err := exec.Command("sh", append([]string{"-euc", script, "sh"}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// TestImageFiles looks into images of an encrypted store through the API, with the real agent beside the server.
func TestImageFiles(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	agent := filepath.Join(state, "bin", "mimeo-agent")
	build := exec.Command("go", "build", "-o", agent, "mimeo/cmd/mimeo-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	sh(t, `cd "$1"; bin/mimeo-agent store key new store.key; export MIMEO_STORE_KEY=store.key; mkdir -p tree/etc; echo ID=debian >tree/etc/os-release; seq 200000 >tree/numbers
		mke2fs -q -F -t ext4 -d tree disk 32m
		bin/mimeo-agent capture disk --store dir:store --image deb
		debugfs -w -R "rm numbers" disk
		bin/mimeo-agent capture disk --store dir:store --image deb
		truncate -s 1M boots; { printf '\061\300\216\330\276\025\174\254\204\300\164\006\272\370\003\356\353\365\364\353\375'; printf 'deb login: \0'; } | dd of=boots conv=notrunc status=none
		printf '\125\252' | dd of=boots bs=1 seek=510 conv=notrunc status=none; bin/mimeo-agent capture boots --store dir:store --image boots`, state)
	r := startWith(t, config.Config{State: state, StoreKey: filepath.Join(state, "store.key")})
	r.cfg.Agent = filepath.Dir(agent)

	files := func(path string) (list []api.ImageFiles) {
		t.Helper()
		if err := r.admin.Stream(t.Context(), "GET", path, nil, func(b []byte) error {
			var f api.ImageFiles
			list = append(list, f)
			return json.Unmarshal(b, &list[len(list)-1])
		}); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		return list
	}
	list := files("/v1/images/deb/1/files?path=/&recursive=1")
	if len(list) != 6 || list[1].File.Path != "/etc" || list[2].File.Path != "/etc/os-release" || !list[5].Finished || list[5].Count != 5 {
		t.Errorf("%+v", list)
	}
	if list := files("/v1/images/deb/1/files?path=numbers"); len(list) != 2 || list[0].File.Size != 1288895 {
		t.Errorf("%+v", list)
	}
	var want, got bytes.Buffer
	for i := range 200000 {
		want.WriteString(strconv.Itoa(i+1) + "\n")
	}
	if err := r.admin.Download(t.Context(), "/v1/images/deb/1/content?path=/numbers", &got); err != nil || !bytes.Equal(got.Bytes(), want.Bytes()) {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
	var diff []api.ImageDiff
	if err := r.admin.Stream(t.Context(), "GET", "/v1/images/deb/1/diff?with=deb@2", nil, func(b []byte) error {
		var d api.ImageDiff
		err := json.Unmarshal(b, &d)
		diff = append(diff, d)
		return err
	}); err != nil || len(diff) != 2 || diff[0].Change.Path != "/numbers" || diff[0].Change.Kind != "removed" || diff[1].Counts["removed"] != 1 {
		t.Errorf("%+v, %v", diff, err)
	}
	for path, code := range map[string]string{
		"/v1/images/deb/1/files?path=/none":                       "not_found: /none: no such file",
		"/v1/images/deb/1/content?path=/etc":                      "bad_request: /etc is no regular file",
		"/v1/images/deb/2/content?path=/numbers":                  "not_found: /numbers: no such file",
		"/v1/images/deb/1/content?path=--store":                   "not_found: /--store: no such file",
		"/v1/images/deb/1/files?partition=x":                      "bad_request: partition",
		"/v1/images/deb/1/files?partition=7":                      "not_found: deb@1: no files can be read of partition 7",
		"/v1/images/deb/3/files":                                  "not_found: ",
		"/v1/images/deb/1/diff?with=deb":                          "not_found: ",
		"/v1/images/deb/1/diff?with=--store@1":                    "not_found: ",
		"/v1/images/deb/1/files?path=" + strings.Repeat("x", 300): "not_found: ",
	} {
		e := r.fails("GET", path, nil, strings.SplitN(code, ": ", 2)[0], strings.SplitN(code, ": ", 2)[1])
		if e != nil && e.Message == "" {
			t.Errorf("%s: no message", path)
		}
	}
	mountImage(t, r, agent, filepath.Join(state, "tree"))
	bootImage(t, r)
}

// bootImage tries images whose boot sectors say something on the first serial port and stop.
func bootImage(t *testing.T, r *rig) {
	t.Helper()
	try := func(rev int, q api.BootTestNew) (last api.BootTestProgress) {
		t.Helper()
		q.Memory = 128
		if err := r.admin.Stream(t.Context(), "POST", fmt.Sprintf("/v1/images/boots/%d/boot-test", rev), q, func(b []byte) error {
			last = api.BootTestProgress{}
			return json.Unmarshal(b, &last)
		}); err != nil || !last.Finished || last.Error != nil {
			t.Fatalf("%+v, %v", last, err)
		}
		return last
	}
	show := func() *api.BootTest {
		t.Helper()
		var d struct {
			BootTest *api.BootTest `json:"boot_test"`
		}
		r.must("GET", "/v1/images/boots/1", nil, &d)
		return d.BootTest
	}
	if got := show(); got != nil {
		t.Errorf("before: %+v", got)
	}
	r.fails("GET", "/v1/images/boots/1/boot-test/screen", nil, "not_found", "there is no picture")
	if p := try(1, api.BootTestNew{}); !p.Result.Booted || p.Result.Match != "deb login:" || p.Result.Image != "boots" || !p.Result.Screen {
		t.Errorf("%+v", p.Result)
	}
	var picture bytes.Buffer
	if err := r.admin.Download(t.Context(), "/v1/images/boots/1/boot-test/screen", &picture); err != nil || !strings.HasPrefix(picture.String(), "\x89PNG") {
		t.Errorf("the picture has %d bytes, %v", picture.Len(), err)
	}
	if got := show(); got == nil || !got.Booted {
		t.Errorf("afterwards: %+v", got)
	}
	if p := try(1, api.BootTestNew{Bus: "virtio", Expect: "nothing like it", TimeoutMS: 2000}); p.Result.Booted || !strings.Contains(p.Result.Why, "nothing like it") {
		t.Errorf("%+v", p.Result)
	}
	for _, q := range []api.BootTestNew{{Firmware: "openfirmware"}, {Expect: "("}, {TimeoutMS: 1}, {Memory: 1}, {Bus: "floppy"}} {
		r.fails("POST", "/v1/images/boots/1/boot-test", q, "bad_request", "")
	}
	r.fails("POST", "/v1/images/boots/7/boot-test", api.BootTestNew{}, "not_found", "")
	r.must("DELETE", "/v1/images/boots/1", nil, nil)
	if left, err := os.ReadDir(filepath.Join(r.cfg.State, "boot-tests")); err != nil || len(left) > 0 {
		t.Errorf("of an image that is gone, %v are kept, %v", left, err)
	}
}

// mountImage mounts an image from the server, as "mimeo image mount" does.
func mountImage(t *testing.T, r *rig, agent, tree string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "mnt")
	run := func(token string) (*exec.Cmd, *bufio.Reader, *bytes.Buffer) {
		cmd := exec.Command(agent, "mount", "--json", "--store", "https://"+r.https.Addr().String(), "--", "deb@1", dir)
		cmd.Env = []string{"MIMEO_PIN=" + r.pin, "MIMEO_TOKEN=" + token}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		said := new(bytes.Buffer)
		cmd.Stderr = said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, bufio.NewReader(out), said
	}
	cmd, _, said := run("bad")
	if err := cmd.Wait(); err == nil || !strings.Contains(said.String(), "a good token is needed") {
		t.Errorf("with a bad token: %v, %s", err, said)
	}
	cmd, out, said := run(r.viewer("looker"))
	line, err := out.ReadBytes('\n')
	var at struct {
		Dir, Disk string
		Volumes   []struct{ Files string }
	}
	if err != nil || json.Unmarshal(line, &at) != nil || at.Dir != dir || len(at.Volumes) != 1 || at.Volumes[0].Files != "files/0" {
		cmd.Process.Kill()
		t.Fatalf("it printed %q, %v; %v: %s", line, err, cmd.Wait(), said)
	}
	sh(t, `for f in etc/os-release numbers; do cmp "$1/$f" "$2/$f"; done; e2fsck -fn "$3"`, tree, filepath.Join(dir, "files/0"), at.Disk)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || said.Len() > 0 {
		t.Errorf("it ended with %v: %s", err, said)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", dir, err)
	}
}
