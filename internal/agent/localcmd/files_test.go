package localcmd_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/cluster/api"
)

// lines runs the agent with --json and reads what it prints, an object a line.
func lines[T any](t *testing.T, args ...string) (list []T) {
	t.Helper()
	r := run(t, append(args, "--json")...)
	if r.code != 0 {
		t.Fatalf("%v: exit %d\n%s", args, r.code, r.err)
	}
	for s := bufio.NewScanner(strings.NewReader(r.out)); s.Scan(); {
		var v T
		if err := json.Unmarshal(s.Bytes(), &v); err != nil {
			t.Fatalf("%q: %v", s.Text(), err)
		}
		list = append(list, v)
	}
	return list
}

func TestFiles(t *testing.T) {
	disk, tree := golden(t, 20)
	store := "dir:" + t.TempDir()
	var c captured
	ok(t, &c, "capture", disk, "--store", store, "--image", "x")

	want := map[string]int64{}
	err := filepath.Walk(tree, func(p string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(tree, p)
		want[filepath.Join("/", rel)] = info.Size()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	list := lines[api.ImageFiles](t, "files", "x", "--recursive", "--store", store)
	end := list[len(list)-1]
	if !end.Finished || end.Count != int64(len(list)-1) || end.Error != nil {
		t.Errorf("the end: %+v", end)
	}
	got := map[string]bool{}
	var some string
	for _, l := range list[:len(list)-1] {
		if l.File == nil {
			t.Fatalf("%+v", l)
		}
		got[l.File.Path] = true
		size, there := want[l.File.Path]
		if !there && !strings.HasPrefix(l.File.Path, "/lost+found") || l.File.Type == "file" && l.File.Size != size {
			t.Errorf("%+v, want size %d", l.File, size)
		}
		if l.File.Type == "file" && l.File.Size > 100_000 {
			some = l.File.Path
		}
	}
	for name := range want {
		if !got[name] {
			t.Errorf("%s is not listed", name)
		}
	}
	r := run(t, "cat", "x@1", some, "--store", store)
	content, err := os.ReadFile(filepath.Join(tree, some))
	if err != nil || r.code != 0 || r.out != string(content) {
		t.Errorf("cat %s: exit %d, %d bytes, want %d: %s", some, r.code, len(r.out), len(content), r.err)
	}
	if r := run(t, "files", "x", "--store", store); r.code != 0 || !strings.Contains(r.out, "/lost+found\n") {
		t.Errorf("files for people: %d %s%s", r.code, r.out, r.err)
	}
	fails(t, 3, []string{"cat", "x", "/no/such", "--store", store}, "/no/such: no such file")
	fails(t, 2, []string{"cat", "x", "//lost+found/", "--store", store}, "error: /lost+found is no regular file")
	fails(t, 3, []string{"files", "x", "/", "--partition", "9", "--store", store}, "partition 9", "--partition")
	fails(t, 3, []string{"files", "y", "--store", store}, "y")

	// The same disk with a change, captured again.
	tool(t, "write "+filepath.Join(tree, some)+" +added\nrm "+some+"\n", "debugfs", "-w", disk+"?offset="+fmt.Sprint(rootOff))
	ok(t, &c, "capture", disk, "--store", store, "--image", "x")
	diff := lines[api.ImageDiff](t, "diff", "x@1", "x@2", "--store", store)
	if len(diff) != 3 || diff[0].Change.Path != "/+added" || diff[0].Change.Kind != "added" || diff[1].Change.Path != some || diff[1].Change.Kind != "removed" ||
		!diff[2].Finished || diff[2].Counts["added"] != 1 || diff[2].Bytes["removed"] != int64(len(content)) {
		t.Errorf("diff: %+v", diff)
	}
	if r := run(t, "diff", "x", "x@2", "--store", store); r.code != 0 || r.out != "no files differ\n" {
		t.Errorf("diff with itself: %d %s%s", r.code, r.out, r.err)
	}
}
