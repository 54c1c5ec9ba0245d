package stateless

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

const (
	recordFile  = "record.json"
	currentLink = "current"
	lockFile    = ".lock"
	newPrefix   = ".new-"
	keepBuilds  = 2 // the one in use, and the one before it: a node may have read its boot script just before
)

// Current is the image that nodes of this profile and architecture boot.
func Current(state, profile string, arch node.Arch) (Stateless, error) {
	if err := errors.Join(checkProfile(profile), checkArch(arch)); err != nil {
		return Stateless{}, err
	}
	dir := imageDir(state, profile, arch)
	build, err := os.Readlink(filepath.Join(dir, currentLink))
	if errors.Is(err, fs.ErrNotExist) {
		return Stateless{}, &api.Error{Code: "not_found", Message: fmt.Sprintf("there is no stateless image of profile %s for %s", profile, arch),
			Hint: fmt.Sprintf("build it: mimeo stateless build %s --arch %s", profile, arch)}
	}
	if err != nil {
		return Stateless{}, fmt.Errorf("find the stateless image of %s for %s: %w", profile, arch, err)
	}
	s, err := readRecord(dir, build)
	s.InUse = true
	return s, err
}

// Show gives the images of a profile, those in use first, then newest first; only those of one architecture where
// arch is not empty. Records that cannot be read are left out and told in the error, beside the others.
func Show(state, profile string, arch node.Arch) ([]Stateless, error) {
	if err := checkProfile(profile); err != nil {
		return nil, err
	}
	var all []Stateless
	var errs []error
	for a := range machines {
		if arch != "" && a != arch {
			continue
		}
		dir := imageDir(state, profile, a)
		current, _ := os.Readlink(filepath.Join(dir, currentLink))
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, e := range entries {
			if !e.IsDir() || !buildName.MatchString(e.Name()) {
				continue
			}
			s, err := readRecord(dir, e.Name())
			if err != nil {
				// Somebody may have removed it since.
				if !errors.Is(err, fs.ErrNotExist) || e.Name() == current {
					errs = append(errs, err)
				}
				continue
			}
			s.InUse = s.Build == current
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(x, y Stateless) int {
		if x.Arch != y.Arch {
			return strings.Compare(string(x.Arch), string(y.Arch))
		}
		if x.InUse != y.InUse {
			if x.InUse {
				return -1
			}
			return 1
		}
		return y.Created.Compare(x.Created)
	})
	return all, errors.Join(errs...)
}

// List gives the images of all profiles, in the order of Show.
func List(state string) ([]Stateless, error) {
	entries, err := os.ReadDir(statelessDir(state))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list stateless images: %w", err)
	}
	var all []Stateless
	var errs []error
	for _, e := range entries {
		if !e.IsDir() || !profileName.MatchString(e.Name()) {
			continue
		}
		s, err := Show(state, e.Name(), "")
		all = append(all, s...)
		if err != nil {
			errs = append(errs, err)
		}
	}
	return all, errors.Join(errs...)
}

// Remove removes images of a profile: of one architecture, or of all where arch is empty; one build, or all where build
// is empty. The one in use goes only where force is set. It gives what was removed, as PROFILE/ARCH/BUILD. Where the
// profile is just being built, nothing is removed.
func Remove(ctx context.Context, state, profile string, arch node.Arch, build string, force bool) ([]string, error) {
	all, err := Show(state, profile, arch)
	if err != nil && len(all) == 0 {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(s Stateless) bool { return build != "" && s.Build != build })
	if len(all) == 0 {
		return nil, &api.Error{Code: "not_found", Message: fmt.Sprintf("there is no such stateless image of profile %s", profile), Hint: `see "mimeo stateless list"`}
	}
	for _, s := range all {
		if s.InUse && !force {
			return nil, &api.Error{Code: "conflict", Message: fmt.Sprintf("build %s of %s for %s is the one that nodes boot", s.Build[:12], profile, s.Arch),
				Hint: "build another one first"}
		}
	}
	var removed []string
	for _, s := range all {
		if err := removeBuild(ctx, state, s); err != nil {
			return removed, err
		}
		removed = append(removed, fmt.Sprintf("%s/%s/%s", profile, s.Arch, s.Build))
	}
	return removed, nil
}

func removeBuild(ctx context.Context, state string, s Stateless) error {
	dir := imageDir(state, s.Profile, s.Arch)
	lock, err := flock(ctx, filepath.Join(dir, lockFile), syscall.LOCK_EX, false)
	if errors.Is(err, errBusy) {
		return busy(s.Profile, s.Arch)
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	if current, _ := os.Readlink(filepath.Join(dir, currentLink)); current == s.Build {
		if !s.InUse { // it has become so since the caller looked
			return busy(s.Profile, s.Arch)
		}
		if err := os.Remove(filepath.Join(dir, currentLink)); err != nil {
			return err
		}
	}
	return dropBuild(dir, s.Build)
}

func busy(profile string, arch node.Arch) error {
	return &api.Error{Code: "busy", Message: fmt.Sprintf("the stateless image of %s for %s is being built", profile, arch), Hint: "try again when that build has ended"}
}

// dropBuild removes a build's folder so that no half of it is ever seen: it loses its name first.
func dropBuild(dir, build string) error {
	gone := filepath.Join(dir, newPrefix+"gone-"+build)
	if err := os.RemoveAll(gone); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(dir, build), gone); err != nil {
		return err
	}
	return os.RemoveAll(gone)
}

// readRecord reads the record of a build and holds it against its place.
func readRecord(dir, build string) (Stateless, error) {
	var s Stateless
	if !buildName.MatchString(build) {
		return s, fmt.Errorf("%s: %q is not the name of a build", dir, build)
	}
	file := filepath.Join(dir, build, recordFile)
	text, err := os.ReadFile(file)
	if err != nil {
		return s, fmt.Errorf("read record of stateless image: %w", err)
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("read %s: %w", file, err)
	}
	if s.Version != RecordVersion {
		return Stateless{}, fmt.Errorf("%s has version %d, this program reads %d", file, s.Version, RecordVersion)
	}
	if s.Build != build || imageDirOf(dir, s) != dir {
		return Stateless{}, fmt.Errorf("%s is the record of build %s of %s for %s", file, s.Build, s.Profile, s.Arch)
	}
	for _, name := range Files {
		if f, ok := s.Files[name]; !ok || len(f.SHA256) != 64 || f.Size <= 0 {
			return Stateless{}, fmt.Errorf("%s says nothing of %s", file, name)
		}
	}
	s.Dir = filepath.Join(dir, build)
	return s, nil
}

func imageDirOf(dir string, s Stateless) string {
	return filepath.Join(filepath.Dir(filepath.Dir(dir)), s.Profile, string(s.Arch))
}

// Verify reads the three files and holds them against the record.
func (s Stateless) Verify() error {
	for _, name := range Files {
		n, sum, err := hashFile(s.Path(name))
		if err != nil {
			return err
		}
		if want := s.Files[name]; n != want.Size || sum != want.SHA256 {
			return fmt.Errorf("%s is damaged: it is not what its record says", s.Path(name))
		}
	}
	return nil
}

// buildID names a build by its three files: SHA-256 over "NAME SHA256\n" of each, in hexadecimal, the first 32 digits.
// For the initrd this is the archive without the part that carries the ID.
func buildID(sums map[string]string) string {
	h := sha256.New()
	for _, name := range Files {
		fmt.Fprintf(h, "%s %s\n", name, sums[name])
	}
	return hex.EncodeToString(h.Sum(nil))[:32]
}

// publish gives a finished folder its place and makes it the one in use. All is on the disk before the link changes.
func publish(dir, tmp string, s Stateless) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, recordFile), append(text, '\n'), 0o644); err != nil {
		return err
	}
	for _, name := range append([]string{recordFile}, Files...) {
		if err := syncFile(filepath.Join(tmp, name)); err != nil {
			return err
		}
	}
	if err := errors.Join(os.Chmod(tmp, 0o755), syncFile(tmp)); err != nil {
		return err
	}
	place := filepath.Join(dir, s.Build)
	// The same image may have been built before, and be in use. The two folders change names in one step, and the
	// caller removes tmp: this one is known to be whole.
	err = unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, place, unix.RENAME_EXCHANGE)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.Rename(tmp, place)
	}
	if err != nil {
		return err
	}
	link := filepath.Join(dir, newPrefix+currentLink)
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(s.Build, link); err != nil {
		return err
	}
	if err := os.Rename(link, filepath.Join(dir, currentLink)); err != nil {
		return err
	}
	return syncFile(dir)
}

// syncFile brings a file or folder to the disk.
func syncFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// sweep removes what builds that were killed left behind. The caller holds the lock.
func sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), newPrefix) {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// prune removes builds beyond keepBuilds, oldest first. The caller holds the lock.
func prune(state, profile string, arch node.Arch) error {
	all, err := Show(state, profile, arch)
	if err != nil {
		return err
	}
	for i, s := range all {
		if i >= keepBuilds && !s.InUse {
			if err := dropBuild(imageDir(state, profile, arch), s.Build); err != nil {
				return err
			}
		}
	}
	return nil
}
