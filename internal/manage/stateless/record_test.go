package stateless

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// The test binary is the program that builds in a user namespace, or that asks for it, where it is told to be.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == CommandApart {
		if err := ServeApart(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) == 4 && os.Args[1] == "build-as-other" {
		s, err := Build(context.Background(), Options{Profile: "tiny", Arch: node.AMD64, StateDir: os.Args[2], AgentBinary: os.Args[3]})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(s.Build)
		return
	}
	goleak.VerifyTestMain(m)
}

// put publishes an image whose files hold text.
func put(t *testing.T, state, profile string, arch node.Arch, text string, created time.Time) Stateless {
	t.Helper()
	dir := imageDir(state, profile, arch)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	tmp, err := os.MkdirTemp(dir, newPrefix)
	if err != nil {
		t.Fatal(err)
	}
	s := Stateless{Version: RecordVersion, Profile: profile, Arch: arch, Created: created, Kernel: "6.1", Files: map[string]api.StatelessFile{}}
	sums := map[string]string{}
	for _, name := range Files {
		write(t, filepath.Join(tmp, name), name+text, 0o644)
		n, sum, err := hashFile(filepath.Join(tmp, name))
		if err != nil {
			t.Fatal(err)
		}
		s.Files[name], sums[name] = api.StatelessFile{Size: n, SHA256: sum}, sum
	}
	s.Build = buildID(sums)
	if err := publish(dir, tmp, s); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(tmp); err != nil {
		t.Fatal(err)
	}
	return s
}

func code(err error) string {
	var e *api.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// remains are the names in an image's folder beside lock, link and builds.
func remains(t *testing.T, state, profile string, arch node.Arch) []string {
	t.Helper()
	entries, err := os.ReadDir(imageDir(state, profile, arch))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if n := e.Name(); n != lockFile && n != currentLink && !buildName.MatchString(n) {
			names = append(names, n)
		}
	}
	return names
}

func TestRecords(t *testing.T) {
	state, ctx := t.TempDir(), context.Background()
	if all, err := List(state); len(all) != 0 || err != nil {
		t.Errorf("an empty state lists %v, %v", all, err)
	}
	if _, err := Current(state, "imaging", node.AMD64); code(err) != "not_found" {
		t.Errorf("no image: %v", err)
	}
	now := time.Now().UTC().Truncate(time.Second)
	first := put(t, state, "imaging", node.AMD64, "1", now.Add(-2*time.Hour))
	second := put(t, state, "imaging", node.AMD64, "2", now.Add(-time.Hour))
	put(t, state, "imaging", node.ARM64, "3", now)
	put(t, state, "other", node.AMD64, "4", now)
	// An image that is built again becomes the one in use, and is there once.
	put(t, state, "imaging", node.AMD64, "1", now)

	cur, err := Current(state, "imaging", node.AMD64)
	if err != nil || cur.Build != first.Build || !cur.InUse || !cur.Created.Equal(now) {
		t.Fatalf("current is %+v, %v", cur, err)
	}
	if err := cur.Verify(); err != nil {
		t.Error(err)
	}
	if got := cur.API(); got.Build != first.Build || !got.InUse || got.Files[FileRoot].Size != int64(len(FileRoot)+1) {
		t.Errorf("as a message: %+v", got)
	}
	all, err := List(state)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range all {
		got = append(got, fmt.Sprintf("%s/%s %v", s.Profile, s.Arch, s.InUse))
	}
	want := "imaging/amd64 true,imaging/amd64 false,imaging/arm64 true,other/amd64 true"
	if s := strings.Join(got, ","); s != want {
		t.Errorf("list is %s, want %s", s, want)
	}

	// A third build makes the oldest go.
	third := put(t, state, "imaging", node.AMD64, "5", now.Add(time.Hour))
	if err := prune(state, "imaging", node.AMD64); err != nil {
		t.Fatal(err)
	}
	all, err = Show(state, "imaging", node.AMD64)
	if err != nil || len(all) != keepBuilds || all[0].Build != third.Build || slices.ContainsFunc(all, func(s Stateless) bool { return s.Build == second.Build }) {
		t.Errorf("after pruning: %+v, %v", all, err)
	}

	if _, err := Remove(ctx, state, "imaging", node.AMD64, third.Build, false); code(err) != "conflict" {
		t.Errorf("the one in use was removed: %v", err)
	}
	lock, err := flock(ctx, filepath.Join(imageDir(state, "imaging", node.AMD64), lockFile), syscall.LOCK_EX, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Remove(ctx, state, "imaging", node.AMD64, "", true); code(err) != "busy" {
		t.Errorf("removed beside a build: %v", err)
	}
	lock.Close()
	if names, err := Remove(ctx, state, "imaging", "", "", true); err != nil || len(names) != 3 {
		t.Errorf("removed %v, %v", names, err)
	}
	if _, err := Current(state, "imaging", node.AMD64); code(err) != "not_found" {
		t.Errorf("after removal: %v", err)
	}
	if _, err := Remove(ctx, state, "imaging", "", "", true); code(err) != "not_found" {
		t.Errorf("nothing was removed, and no error: %v", err)
	}
	if left := remains(t, state, "imaging", node.AMD64); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if all, err := List(state); err != nil || len(all) != 1 {
		t.Errorf("in the end: %v, %v", all, err)
	}
}

func TestDamagedRecords(t *testing.T) {
	for name, damage := range map[string]func(s *string){
		"not JSON":   func(s *string) { *s = (*s)[:len(*s)/2] },
		"version":    func(s *string) { *s = strings.Replace(*s, `"version": 1`, `"version": 9`, 1) },
		"build":      func(s *string) { *s = strings.Replace(*s, `"build": "`, `"build": "0`, 1) },
		"profile":    func(s *string) { *s = strings.Replace(*s, `"imaging"`, `"../../x"`, 1) },
		"less files": func(s *string) { *s = strings.Replace(*s, `"rootimg"`, `"x"`, 1) },
	} {
		state := t.TempDir()
		s := put(t, state, "imaging", node.AMD64, "1", time.Now())
		file := filepath.Join(imageDir(state, "imaging", node.AMD64), s.Build, recordFile)
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text := string(b)
		if damage(&text); text == string(b) {
			t.Fatalf("%s: nothing was damaged", name)
		}
		write(t, file, text, 0o644)
		if got, err := Current(state, "imaging", node.AMD64); err == nil {
			t.Errorf("%s: read as %+v", name, got)
		}
		if all, err := List(state); err == nil || len(all) != 0 {
			t.Errorf("%s: listed as %v, %v", name, all, err)
		}
	}
	state := t.TempDir()
	s := put(t, state, "imaging", node.AMD64, "1", time.Now())
	dir := filepath.Join(imageDir(state, "imaging", node.AMD64), s.Build)
	write(t, filepath.Join(dir, FileRoot), "rootimg2", 0o644)
	s.Dir = dir
	if err := s.Verify(); err == nil || !strings.Contains(err.Error(), FileRoot) {
		t.Errorf("a changed rootimg: %v", err)
	}
}

// tinyAgent builds a static program that stands for the agent.
func tinyAgent(t *testing.T, arch string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "main.go"), "package main\n\nfunc main() {}\n", 0o644)
	out := filepath.Join(dir, "mimeo-agent-"+arch)
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w -buildid=", "-o", out, filepath.Join(dir, "main.go"))
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+arch)
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build a program: %v: %s", err, b)
	}
	return out
}

// fakeLoaders keeps a build from fetching loaders.
func fakeLoaders(t *testing.T, state string) {
	t.Helper()
	write(t, filepath.Join(loadersDir(state), loadersRecord), `{"version": 1, "memtest": "none", "signed": "none"}`, 0o644)
}

// TestFailureLeavesPrevious makes builds fail before anything is fetched. TestBuildReal has one that fails late.
func TestFailureLeavesPrevious(t *testing.T) {
	state, agent := t.TempDir(), tinyAgent(t, "amd64")
	fakeLoaders(t, state)
	writeProfile(t, state, "tiny.yaml", "suite: bookworm\nsources: ['deb [trusted=yes] file:/nonexistent ./']\n")
	writeProfile(t, state, "broken.yaml", "suite: bookworm\npackage: [curl]\n")
	before := put(t, state, "tiny", node.AMD64, "1", time.Now())
	if err := os.Mkdir(filepath.Join(imageDir(state, "tiny", node.AMD64), newPrefix+"killed"), 0o755); err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	dynamic, err := exec.LookPath("cat")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, says string
		ctx        context.Context
		o          Options
	}{
		{"mirror that is not there", "package lists", context.Background(), Options{Profile: "tiny", AgentBinary: agent}},
		{"cancelled", "context canceled", cancelled, Options{Profile: "tiny", AgentBinary: agent}},
		{"profile with an unknown key", "line 2", context.Background(), Options{Profile: "broken", AgentBinary: agent}},
		{"no profile", "no profile nothing", context.Background(), Options{Profile: "nothing", AgentBinary: agent}},
		{"no agent", "agent", context.Background(), Options{Profile: "tiny", AgentBinary: "/nonexistent"}},
		{"agent of another architecture", "not for arm64", context.Background(), Options{Profile: "tiny", Arch: node.ARM64, AgentBinary: agent}},
		{"agent that is not static", "not static", context.Background(), Options{Profile: "tiny", AgentBinary: dynamic}},
		{"architecture", "none of amd64", context.Background(), Options{Profile: "tiny", Arch: "mips", AgentBinary: agent}},
	} {
		o := c.o
		o.StateDir = state
		if o.Arch == "" {
			o.Arch = node.AMD64
		}
		if _, err := Build(c.ctx, o); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: error %v does not say %q", c.name, err, c.says)
		}
		if cur, err := Current(state, "tiny", node.AMD64); err != nil || cur.Build != before.Build || cur.Verify() != nil {
			t.Errorf("%s: current is %+v, %v", c.name, cur, err)
		}
	}
	if left := remains(t, state, "tiny", node.AMD64); len(left) != 0 {
		t.Errorf("left: %v", left)
	}

	lock, err := flock(context.Background(), filepath.Join(imageDir(state, "tiny", node.AMD64), lockFile), syscall.LOCK_EX, false)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if _, err := Build(context.Background(), Options{Profile: "tiny", Arch: node.AMD64, StateDir: state, AgentBinary: agent}); code(err) != "busy" {
		t.Errorf("a second build beside another: %v", err)
	}
}

func TestAgentBinary(t *testing.T) {
	dir := t.TempDir()
	if _, err := AgentBinary(dir, OwnArch()); code(err) != "not_found" {
		t.Errorf("no agent: %v", err)
	}
	write(t, filepath.Join(dir, "mimeo-agent"), "x", 0o755)
	if got, err := AgentBinary(dir, OwnArch()); err != nil || got != filepath.Join(dir, "mimeo-agent") {
		t.Errorf("%s, %v", got, err)
	}
	other := node.PPC64EL
	if OwnArch() == other {
		other = node.AMD64
	}
	if got, err := AgentBinary(dir, other); err == nil {
		t.Errorf("for another architecture: %s", got)
	}
	write(t, filepath.Join(dir, "mimeo-agent-"+string(other)), "x", 0o755)
	if got, err := AgentBinary(dir, other); err != nil || filepath.Base(got) != "mimeo-agent-"+string(other) {
		t.Errorf("%s, %v", got, err)
	}
}
