package stateless

import (
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// recipe is the version of what Build does with its inputs. It changes when the same inputs would give other files.
const recipe = 1

// Options say what to build.
type Options struct {
	Profile     string       // name; see LoadProfile
	Arch        node.Arch    // empty means this machine's own
	StateDir    string       // mimeod's state folder
	AgentBinary string       // static mimeo-agent for Arch; see AgentBinary
	Force       bool         // build even where nothing has changed since the image in use was built
	Progress    func(string) `json:"-"` // a line on what is being done; nil means silent. Calls come one at a time
}

// AgentBinary finds the agent for an architecture in a folder of programs: mimeo-agent-ARCH, or mimeo-agent where that
// is the machine's own architecture.
func AgentBinary(dir string, arch node.Arch) (string, error) {
	names := []string{"mimeo-agent-" + string(arch)}
	if arch == OwnArch() {
		names = append(names, "mimeo-agent")
	}
	for _, n := range names {
		if info, err := os.Stat(filepath.Join(dir, n)); err == nil && info.Mode().IsRegular() {
			return filepath.Join(dir, n), nil
		}
	}
	return "", &api.Error{Code: "not_found", Message: fmt.Sprintf("there is no agent for %s: no %s in %s", arch, strings.Join(names, " or "), dir),
		Hint: "build the programs: ./setup"}
}

// OwnArch is the architecture of this machine.
func OwnArch() node.Arch {
	if runtime.GOARCH == "ppc64le" {
		return node.PPC64EL
	}
	return node.Arch(runtime.GOARCH)
}

// Build makes the stateless image of a profile for one architecture and gives it to the nodes. While it works, and
// after an error, the image that was in use stays in use. Where nothing has changed since that was built, it is given
// back as it is. Somebody who is not root builds in a user namespace. A second build of the same profile and architecture at the same time is an error of code "busy".
func Build(ctx context.Context, o Options) (Stateless, error) {
	if o.Arch == "" {
		o.Arch = OwnArch()
	}
	if err := errors.Join(checkProfile(o.Profile), checkArch(o.Arch)); err != nil {
		return Stateless{}, err
	}
	if os.Geteuid() != 0 {
		return buildApart(ctx, o)
	}
	b := &build{Options: o, dir: imageDir(o.StateDir, o.Profile, o.Arch), started: time.Now(), lines: make(chan string)}
	var g errgroup.Group
	g.Go(func() error {
		for line := range b.lines {
			if o.Progress != nil {
				o.Progress(line)
			}
		}
		return nil
	})
	s, err := b.locked(ctx)
	close(b.lines)
	_ = g.Wait()
	if err != nil {
		return Stateless{}, wrap(fmt.Sprintf("build stateless image %s for %s", o.Profile, o.Arch), err)
	}
	return s, nil
}

// wrap says what was being done, and keeps the code and the hint of an error that has them.
func wrap(doing string, err error) error {
	var e *api.Error
	if errors.As(err, &e) {
		return &api.Error{Code: e.Code, Message: doing + ": " + err.Error(), Hint: e.Hint}
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// build is one run of Build.
type build struct {
	Options
	profile Profile
	dir     string // STATE/stateless/PROFILE/ARCH
	tmp     string // where the new image grows
	lines   chan string
	started time.Time

	root, kernel, firmware []deb
	twin                   []deb // root's packages for this machine, where it is of another architecture; see transplant
	epoch                  int64
	inputs, agentSum       string
}

func (b *build) say(format string, args ...any) {
	b.lines <- fmt.Sprintf("[%-7s %5.1f s] ", b.Arch, time.Since(b.started).Seconds()) + fmt.Sprintf(format, args...)
}

func (b *build) locked(ctx context.Context) (Stateless, error) {
	var err error
	if b.profile, err = LoadProfile(b.StateDir, b.Profile); err != nil {
		return Stateless{}, err
	}
	if err := b.checkAgent(); err != nil {
		return Stateless{}, err
	}
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return Stateless{}, err
	}
	lock, err := flock(ctx, filepath.Join(b.dir, lockFile), syscall.LOCK_EX, false)
	if errors.Is(err, errBusy) {
		return Stateless{}, busy(b.Profile, b.Arch)
	}
	if err != nil {
		return Stateless{}, err
	}
	defer lock.Close()
	if err := sweep(b.dir); err != nil {
		return Stateless{}, err
	}
	if !HaveLoaders(b.StateDir) {
		if err := FetchLoaders(ctx, b.StateDir, func(line string) { b.say("%s", line) }); err != nil {
			return Stateless{}, err
		}
	}
	return b.withApt(ctx)
}

// checkAgent makes sure that the agent is a static program for the architecture: anything else would only be found
// out on the node.
func (b *build) checkAgent() error {
	f, err := elf.Open(b.AgentBinary)
	if err != nil {
		return fmt.Errorf("read agent: %w", err)
	}
	defer f.Close()
	if got, want := f.Machine.String(), machines[b.Arch].elf; got != want {
		return fmt.Errorf("agent %s is a program for %s, not for %s (%s)", b.AgentBinary, got, b.Arch, want)
	}
	if slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		return &api.Error{Code: "failed", Message: fmt.Sprintf("agent %s is not static", b.AgentBinary), Hint: "build it with CGO_ENABLED=0, as ./setup does"}
	}
	_, b.agentSum, err = hashFile(b.AgentBinary)
	return err
}

// withApt finds and fetches the packages, and goes on with the build while it holds the package cache's lock, so that
// no other build tidies the packages away.
func (b *build) withApt(ctx context.Context) (_ Stateless, err error) {
	p := b.profile
	sources, err := sourcesFor(p.Sources, p.Suite, p.Components)
	if err != nil {
		return Stateless{}, err
	}
	a, err := openApt(ctx, filepath.Join(cacheDir(b.StateDir), "apt", p.Suite+"-"+string(b.Arch)), b.Arch, sources)
	if err != nil {
		return Stateless{}, err
	}
	defer func() { err = errors.Join(err, a.close()) }()
	b.say("profile %s for %s: asking for the packages of Debian %s", b.Profile, b.Arch, p.Suite)
	if err := a.update(ctx, func(s string) { b.say("%s", s) }); err != nil {
		return Stateless{}, err
	}
	if err := b.findPackages(ctx, a); err != nil {
		return Stateless{}, err
	}
	own := a
	if b.Arch != OwnArch() {
		if own, err = b.findTwin(ctx, sources); err != nil {
			return Stateless{}, err
		}
		defer func() { err = errors.Join(err, own.close()) }()
	}
	if err := b.sumInputs(); err != nil {
		return Stateless{}, err
	}
	if old, err := Current(b.StateDir, b.Profile, b.Arch); err == nil && old.Inputs == b.inputs && !b.Force {
		if err := old.Verify(); err == nil {
			b.say("nothing has changed since build %s: it stays in use", old.Build[:12])
			return old, nil
		}
		b.say("build %s is damaged, building it again", old.Build[:12])
	}
	all := slices.Concat(b.root, b.kernel, b.firmware)
	n, err := a.fetch(ctx, all)
	if err != nil {
		return Stateless{}, err
	}
	m, err := own.fetch(ctx, b.twin)
	if err != nil {
		return Stateless{}, err
	}
	b.say("%d packages, %s; %s of them fetched now, the rest from the cache", len(all)+len(b.twin), mib(sizeOf(all)+sizeOf(b.twin)), mib(n+m))
	if b.epoch, err = epoch(all); err != nil {
		return Stateless{}, err
	}
	s, err := b.make(ctx)
	if err == nil {
		a.tidy(all)
		own.tidy(b.twin)
	}
	return s, err
}

// findTwin fills in the twin's packages, from an apt for this machine's architecture that the caller closes.
func (b *build) findTwin(ctx context.Context, sources []string) (_ *aptDir, err error) {
	a, err := openApt(ctx, filepath.Join(cacheDir(b.StateDir), "apt", b.profile.Suite+"-"+string(OwnArch())), OwnArch(), sources)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close())
		}
	}()
	if err := a.update(ctx, func(s string) { b.say("%s", s) }); err != nil {
		return nil, err
	}
	known, err := a.names(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, d := range b.root {
		if known[d.name] {
			names = append(names, d.name)
		} else {
			b.say("warning: Debian has no %s for %s: its files are in the image, and its installation scripts were not run", d.name, OwnArch())
		}
	}
	b.twin, err = a.resolve(ctx, names, true)
	return a, err
}

// findPackages fills in the packages of the root, the kernel and the firmware.
func (b *build) findPackages(ctx context.Context, a *aptDir) error {
	p := b.profile
	var err error
	if b.root, err = a.resolve(ctx, p.Packages, true); err != nil {
		return err
	}
	kernel := p.Kernel[string(b.Arch)]
	if kernel == "" {
		kernel = machines[b.Arch].kernel
	}
	if b.kernel, err = a.resolve(ctx, []string{kernel}, false); err != nil {
		return err
	}
	// What else a kernel package wants (an initramfs of Debian's making) is of no use here.
	b.kernel = slices.DeleteFunc(b.kernel, func(d deb) bool {
		return d.name != kernel && !strings.HasPrefix(d.name, "linux-image-") && !strings.HasPrefix(d.name, "linux-modules-")
	})
	if len(p.Firmware) == 0 {
		return nil
	}
	if b.firmware, err = a.resolve(ctx, p.Firmware, false); err != nil {
		return err
	}
	b.firmware = slices.DeleteFunc(b.firmware, func(d deb) bool { return !slices.Contains(p.Firmware, d.name) })
	return nil
}

// sumInputs hashes all that decides what the three files hold.
func (b *build) sumInputs() error {
	in := struct {
		Recipe   int
		Arch     node.Arch
		Profile  Profile
		Mounts   []string // their mount points are in the rootimg
		Packages []string
		Twin     []string `json:",omitempty"`
		Agent    string
	}{Recipe: recipe, Arch: b.Arch, Profile: b.profile, Agent: b.agentSum}
	for _, m := range b.profile.Mounts {
		in.Mounts = append(in.Mounts, m.Target)
	}
	for _, d := range slices.Concat(b.root, b.kernel, b.firmware) {
		in.Packages = append(in.Packages, d.name+"="+d.version+" "+d.sha256)
	}
	for _, d := range b.twin {
		in.Twin = append(in.Twin, d.name+"="+d.version+" "+d.sha256)
	}
	text, err := json.Marshal(in)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(text)
	b.inputs = hex.EncodeToString(sum[:])
	return nil
}

// make builds the three files and publishes them.
func (b *build) make(ctx context.Context) (_ Stateless, err error) {
	if b.tmp, err = os.MkdirTemp(b.dir, newPrefix); err != nil {
		return Stateless{}, err
	}
	defer func() { err = errors.Join(err, removeTree(b.tmp)) }()
	work := filepath.Join(b.tmp, "work")
	if err := os.Mkdir(work, 0o755); err != nil {
		return Stateless{}, err
	}
	kernelDir, firmwareDir := filepath.Join(work, "kernel"), filepath.Join(work, "firmware")
	if err := errors.Join(unpack(ctx, b.kernel, kernelDir), unpack(ctx, b.firmware, firmwareDir)); err != nil {
		return Stateless{}, err
	}
	version, vmlinuz, err := findKernel(kernelDir)
	if err != nil {
		return Stateless{}, err
	}
	modules, err := readModules(ctx, kernelDir, version)
	if err != nil {
		return Stateless{}, err
	}
	b.say("kernel %s: %d modules", version, len(modules.deps))
	if err := copyFile(vmlinuz, filepath.Join(b.tmp, FileKernel), 0o644); err != nil {
		return Stateless{}, err
	}
	// The initrd is packed beside the installation of the root: one is busy computing, the other waits for the disk.
	archive := filepath.Join(work, "initrd.cpio.zst")
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return b.makeInitrd(gctx, work, archive, modules, firmwareDir) })
	g.Go(func() error { return b.makeRootimg(gctx, work, modules, firmwareDir) })
	if err := g.Wait(); err != nil {
		return Stateless{}, err
	}
	return b.finish(archive, work, version)
}

func (b *build) makeInitrd(ctx context.Context, work, archive string, t *moduleTree, firmware string) error {
	dir := filepath.Join(work, "initrd")
	chosen := t.choose(b.profile.Modules.Initrd)
	if err := stageInitrd(ctx, dir, b.AgentBinary, t, chosen); err != nil {
		return fmt.Errorf("make initrd: %w", err)
	}
	if _, err := t.installFirmware(firmware, chosen, dir); err != nil {
		return fmt.Errorf("make initrd: %w", err)
	}
	raw, err := packInitrd(dir, archive, b.epoch)
	if err != nil {
		return fmt.Errorf("make initrd: %w", err)
	}
	info, err := os.Stat(archive)
	if err != nil {
		return err
	}
	b.say("%s: the agent and %d modules, %s in %s", FileInitrd, len(chosen), mib(raw), mib(info.Size()))
	return nil
}

func (b *build) makeRootimg(ctx context.Context, work string, t *moduleTree, firmware string) error {
	dir, repo := filepath.Join(work, "root"), filepath.Join(work, "packages")
	install := b.root
	if b.Arch != OwnArch() {
		install = b.twin
	}
	if err := repository(install, repo); err != nil {
		return fmt.Errorf("make rootimg: %w", err)
	}
	b.say("%s: installing %d packages for %s with mmdebstrap", FileRoot, len(install), OwnArch())
	if err := makeRoot(ctx, dir, repo, b.profile.Suite, install, b.epoch); err != nil {
		return fmt.Errorf("make rootimg: %w", err)
	}
	if b.Arch != OwnArch() {
		b.say("%s: putting the files of %d packages for %s in their places", FileRoot, len(b.root), b.Arch)
		if err := transplant(ctx, dir, OwnArch(), b.Arch, b.root); err != nil {
			return fmt.Errorf("make rootimg: %w", err)
		}
	}
	if err := finishRoot(dir, b.profile, b.epoch); err != nil {
		return fmt.Errorf("make rootimg: %w", err)
	}
	chosen := t.choose(b.profile.Modules.Rootimg)
	if err := t.install(ctx, chosen, dir, false); err != nil {
		return fmt.Errorf("make rootimg: %w", err)
	}
	n, err := t.installFirmware(firmware, chosen, dir)
	if err != nil {
		return fmt.Errorf("make rootimg: %w", err)
	}
	b.say("%s: packing it, with %d modules and %d firmware files", FileRoot, len(chosen), n)
	return packRoot(ctx, dir, filepath.Join(b.tmp, FileRoot), b.epoch)
}

// finish names the build, writes its record and publishes it.
func (b *build) finish(archive, work, version string) (Stateless, error) {
	s := Stateless{Version: RecordVersion, Profile: b.Profile, Arch: b.Arch, Created: time.Now().UTC().Truncate(time.Second), Kernel: version,
		Suite: b.profile.Suite, Cmdline: b.profile.Cmdline, Init: b.profile.Init, Files: map[string]api.StatelessFile{}, Epoch: b.epoch, Agent: b.agentSum, Inputs: b.inputs}
	for _, d := range slices.Concat(b.root, b.kernel, b.firmware) {
		s.Packages = append(s.Packages, d.name+"="+d.version)
	}
	slices.Sort(s.Packages)
	s.Packages = slices.Compact(s.Packages)
	sums := map[string]string{}
	for name, file := range map[string]string{FileKernel: filepath.Join(b.tmp, FileKernel), FileInitrd: archive, FileRoot: filepath.Join(b.tmp, FileRoot)} {
		var err error
		if _, sums[name], err = hashFile(file); err != nil {
			return Stateless{}, err
		}
	}
	s.Build = buildID(sums)
	if err := sealInitrd(archive, filepath.Join(b.tmp, FileInitrd), s.Build, b.epoch); err != nil {
		return Stateless{}, err
	}
	for _, name := range Files {
		n, sum, err := hashFile(filepath.Join(b.tmp, name))
		if err != nil {
			return Stateless{}, err
		}
		if err := os.Chmod(filepath.Join(b.tmp, name), 0o644); err != nil {
			return Stateless{}, err
		}
		s.Files[name] = api.StatelessFile{Size: n, SHA256: sum}
	}
	if err := removeTree(work); err != nil {
		return Stateless{}, err
	}
	if err := publish(b.dir, b.tmp, s); err != nil {
		return Stateless{}, fmt.Errorf("publish build %s: %w", s.Build, err)
	}
	s.Dir, s.InUse = filepath.Join(b.dir, s.Build), true
	b.say("build %s is in use: %s %s, %s %s, %s %s, %s together", s.Build[:12], FileKernel, mib(s.Files[FileKernel].Size),
		FileInitrd, mib(s.Files[FileInitrd].Size), FileRoot, mib(s.Files[FileRoot].Size), mib(s.Size()))
	if err := prune(b.StateDir, b.Profile, b.Arch); err != nil {
		b.say("warning: older builds could not be removed: %v", err)
	}
	return s, nil
}

func sizeOf(debs []deb) int64 {
	var n int64
	for _, d := range debs {
		n += d.size
	}
	return n
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
