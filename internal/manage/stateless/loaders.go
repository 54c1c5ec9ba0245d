package stateless

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"mimeo/internal/boot/netboot"
	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// Loaders is the record of the first loaders that nodes get by TFTP or HTTP, as it lies beside them.
type Loaders struct {
	Version int                          `json:"version"` // LoadersVersion
	Fetched time.Time                    `json:"fetched"`
	Suite   string                       `json:"suite"`   // Debian release that they come from
	Package string                       `json:"package"` // name=version
	Memtest string                       `json:"memtest"` // likewise; "none" where the release has none
	Signed  string                       `json:"signed"`  // likewise, two with a blank between; "none" where the release has none that loads by HTTP
	Files   map[string]api.StatelessFile `json:"files"`
}

// LoadersVersion is the version of the loaders' record. History, newest first:
//
//	1: the first
const LoadersVersion = 1

const loadersRecord = "loaders.json"

// loaderSuites are where the loaders come from, best first: iPXE of 2019, as in bookworm, has no file for arm64, shows
// its banner for two seconds and waits for IPv6.
var loaderSuites = []string{"trixie", "bookworm"}

// optional are packages beside iPXE, which a mirror may lack, as few nodes need them.
type optional struct {
	packages []string
	files    []loaderFile
	record   func(*Loaders) *string
	suites   []string // that have what we need of it; all where empty
}

// Debian 12's signed GRUB cannot load by HTTP.
var optionals = []optional{
	{packages: []string{"memtest86+"}, files: memtestFiles, record: func(l *Loaders) *string { return &l.Memtest }},
	{packages: []string{"shim-signed", "grub-efi-amd64-signed"}, files: signedFiles, record: func(l *Loaders) *string { return &l.Signed }, suites: []string{"trixie"}},
}

const noPackage = "none"

// loaderFile is a file of a Debian package and the name that netboot knows it by; need says that a node of today's
// tests cannot do without.
type loaderFile struct {
	name, path string
	need       bool
}

var memtestFiles = []loaderFile{
	{netboot.FileMemtestBIOS, "boot/memtest86+x64.bin", true},
	{netboot.FileMemtestUEFI, "boot/memtest86+x64.efi", true},
}

// signedFiles are those that a firmware with Secure Boot starts: Microsoft signed shim, Debian GRUB.
var signedFiles = []loaderFile{
	{netboot.LoaderShimAMD64, "usr/lib/shim/shimx64.efi.signed", true},
	{netboot.LoaderGRUBAMD64, "usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed", true},
}

var loaderFiles = []loaderFile{
	{netboot.LoaderBIOS, "usr/lib/ipxe/undionly.kpxe", true},
	{"ipxe.pxe", "usr/lib/ipxe/ipxe.pxe", false}, // BIOS, with drivers of its own, for network cards whose PXE stack is broken
	{netboot.LoaderUEFIAMD64, "usr/lib/ipxe/snponly.efi", true},
	{"ipxe-amd64.efi", "usr/lib/ipxe/ipxe-amd64.efi", false},
	{netboot.LoaderUEFIARM64, "usr/lib/ipxe/ipxe-arm64.efi", false},
}

// HaveLoaders tells whether the loaders that nodes need are there. Those that were fetched when there were fewer kinds
// are fetched anew.
func HaveLoaders(state string) bool {
	l, err := ReadLoaders(state)
	if err != nil || l.Memtest == "" || l.Signed == "" {
		return false
	}
	for name, f := range l.Files {
		info, err := os.Stat(filepath.Join(loadersDir(state), name))
		if err != nil || info.Size() != f.Size {
			return false
		}
	}
	return true
}

// ReadLoaders reads the loaders' record.
func ReadLoaders(state string) (Loaders, error) {
	var l Loaders
	text, err := os.ReadFile(filepath.Join(loadersDir(state), loadersRecord))
	if err != nil {
		return l, fmt.Errorf("read record of loaders: %w", err)
	}
	if err := json.Unmarshal(text, &l); err != nil {
		return l, fmt.Errorf("read record of loaders: %w", err)
	}
	if l.Version != LoadersVersion {
		return Loaders{}, fmt.Errorf("record of loaders has version %d, this program reads %d", l.Version, LoadersVersion)
	}
	return l, nil
}

// FetchLoaders fetches Debian's iPXE, its memory test and its signed loaders into STATE/loaders. Each file takes the
// place of its predecessor in one step, the record comes last. progress may be nil.
func FetchLoaders(ctx context.Context, state string, progress func(string)) error {
	if progress == nil {
		progress = func(string) {}
	}
	if err := os.MkdirAll(loadersDir(state), 0o755); err != nil {
		return err
	}
	lock, err := flock(ctx, filepath.Join(loadersDir(state), lockFile), syscall.LOCK_EX, true)
	if err != nil {
		return err
	}
	defer lock.Close()
	var errs []error
	for i, suite := range loaderSuites {
		l, err := fetchLoaders(ctx, state, suite)
		if err == nil {
			var n int64
			for _, f := range l.Files {
				n += f.Size
			}
			progress(fmt.Sprintf("loaders: %d files of %s from Debian %s, %s", len(l.Files), l.Package, suite, mib(n)))
			return nil
		}
		errs = append(errs, fmt.Errorf("from Debian %s: %w", suite, err))
		if ctx.Err() != nil {
			break
		}
		if i+1 < len(loaderSuites) {
			progress(fmt.Sprintf("warning: no iPXE from Debian %s, trying the older one of %s: %v", suite, loaderSuites[i+1], err))
		}
	}
	return wrap("fetch iPXE", errors.Join(errs...))
}

func fetchLoaders(ctx context.Context, state, suite string) (_ Loaders, err error) {
	var none Loaders
	sources, err := sourcesFor(nil, suite, []string{"main"})
	if err != nil {
		return none, err
	}
	a, err := openApt(ctx, filepath.Join(cacheDir(state), "apt", suite+"-loaders"), node.AMD64, sources)
	if err != nil {
		return none, err
	}
	defer func() { err = errors.Join(err, a.close()) }()
	if err := a.update(ctx, func(string) {}); err != nil {
		return none, err
	}
	ipxe, err := a.one(ctx, "ipxe")
	if err != nil {
		return none, err
	}
	l := Loaders{Version: LoadersVersion, Fetched: time.Now().UTC().Truncate(time.Second), Suite: suite,
		Package: ipxe[0].name + "=" + ipxe[0].version, Files: map[string]api.StatelessFile{}}
	files, all := slices.Clone(loaderFiles), ipxe
	for _, o := range optionals {
		record := o.record(&l)
		*record = noPackage
		if len(o.suites) > 0 && !slices.Contains(o.suites, suite) {
			continue
		}
		var debs []deb
		var names []string
		for _, p := range o.packages {
			d, err := a.one(ctx, p)
			if err != nil {
				break
			}
			debs, names = append(debs, d...), append(names, d[0].name+"="+d[0].version)
		}
		if err := ctx.Err(); err != nil {
			return none, err
		}
		if len(debs) == len(o.packages) {
			*record = strings.Join(names, " ")
			files, all = append(files, o.files...), append(all, debs...)
		}
	}
	if _, err := a.fetch(ctx, all); err != nil {
		return none, err
	}
	work, err := os.MkdirTemp(a.dir, "unpack-")
	if err != nil {
		return none, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	if err := unpack(ctx, all, work); err != nil {
		return none, err
	}
	for _, f := range files {
		from := filepath.Join(work, f.path)
		n, sum, err := hashFile(from)
		if errors.Is(err, fs.ErrNotExist) && !f.need {
			continue
		}
		if err != nil {
			return none, fmt.Errorf("packages %s, %s, %s: %w", l.Package, l.Memtest, l.Signed, err)
		}
		if err := replaceFile(from, filepath.Join(loadersDir(state), f.name)); err != nil {
			return none, err
		}
		l.Files[f.name] = api.StatelessFile{Size: n, SHA256: sum}
	}
	text, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return none, err
	}
	record := filepath.Join(work, loadersRecord)
	if err := os.WriteFile(record, append(text, '\n'), 0o644); err != nil {
		return none, err
	}
	if err := replaceFile(record, filepath.Join(loadersDir(state), loadersRecord)); err != nil {
		return none, err
	}
	a.tidy(all)
	return l, syncFile(loadersDir(state))
}

// one finds a package by itself, without what it depends on.
func (a *aptDir) one(ctx context.Context, name string) ([]deb, error) {
	debs, err := a.resolve(ctx, []string{name}, false)
	if err != nil {
		return nil, err
	}
	debs = slices.DeleteFunc(debs, func(d deb) bool { return d.name != name })
	if len(debs) != 1 {
		return nil, fmt.Errorf("the package lists have no package %s", name)
	}
	return debs, nil
}

// replaceFile puts a copy of a file in place of another, which is whole before and after.
func replaceFile(from, to string) error {
	tmp := filepath.Join(filepath.Dir(to), newPrefix+strings.TrimPrefix(filepath.Base(to), "."))
	if err := copyFile(from, tmp, 0o644); err != nil {
		return err
	}
	if err := syncFile(tmp); err != nil {
		return err
	}
	return os.Rename(tmp, to)
}
