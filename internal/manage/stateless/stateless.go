// Package stateless builds a stateless image from a profile, and keeps the images that were built.
//
// A stateless image is vmlinuz, initrd.img and rootimg for one architecture, made from Debian packages. Build writes
// a new one beside those that are there and lets it take over in one step at the end; all that is known of an image
// lies in its folder, without a database. docs/formats/stateless.md describes files and folders, docs/formats/profile.md
// the profile.
package stateless

import (
	"fmt"
	"path/filepath"
	"regexp"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// Names of the three files of a stateless image, as they stand in its folder and in the boot server's URLs.
const (
	FileKernel = "vmlinuz"
	FileInitrd = "initrd.img"
	FileRoot   = "rootimg"
)

// Files are the three files of a stateless image.
var Files = []string{FileKernel, FileInitrd, FileRoot}

// RecordVersion is the version of the record beside the three files. History, newest first:
//
//	1: the first
const RecordVersion = 1

// Stateless is a stateless image that was built: the record beside its three files.
type Stateless struct {
	Version  int                          `json:"version"` // RecordVersion
	Profile  string                       `json:"profile"`
	Arch     node.Arch                    `json:"arch"`
	Build    string                       `json:"build"` // hash over the three files, 32 hexadecimal digits
	Created  time.Time                    `json:"created"`
	Kernel   string                       `json:"kernel"` // version, as uname -r prints it
	Suite    string                       `json:"suite"`  // Debian release
	Cmdline  []string                     `json:"cmdline,omitempty"`
	Init     string                       `json:"init,omitempty"` // process 1 of nodes whose boot state is stateless; "" means the agent
	Files    map[string]api.StatelessFile `json:"files"`
	Packages []string                     `json:"packages"`      // name=version, sorted
	Epoch    int64                        `json:"epoch"`         // Unix time that all files of the image carry
	Agent    string                       `json:"agent_sha256"`  // of the agent in the initrd
	Inputs   string                       `json:"inputs_sha256"` // hash over all that went into the build

	Dir   string `json:"-"` // folder of the files
	InUse bool   `json:"-"` // it is the one that nodes of this profile and architecture boot
}

// API is the image as the messages to people have it.
func (s Stateless) API() api.Stateless {
	return api.Stateless{Profile: s.Profile, Arch: s.Arch, Build: s.Build, Created: s.Created, Kernel: s.Kernel,
		Files: s.Files, InUse: s.InUse, Packages: s.Packages}
}

// Path is where one of the three files lies.
func (s Stateless) Path(file string) string { return filepath.Join(s.Dir, file) }

// Size is the length of the three files together, in bytes.
func (s Stateless) Size() int64 {
	var n int64
	for _, f := range s.Files {
		n += f.Size
	}
	return n
}

// Folders below the state folder.
func statelessDir(state string) string { return filepath.Join(state, "stateless") }
func profilesDir(state string) string  { return filepath.Join(state, "profiles") }
func cacheDir(state string) string     { return filepath.Join(state, "cache") }
func loadersDir(state string) string   { return filepath.Join(state, "loaders") }

func imageDir(state, profile string, arch node.Arch) string {
	return filepath.Join(statelessDir(state), profile, string(arch))
}

var (
	profileName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	buildName   = regexp.MustCompile(`^[0-9a-f]{32}$`)
)

// checkProfile refuses names that could not be a folder.
func checkProfile(name string) error {
	if !profileName.MatchString(name) {
		return &api.Error{Code: "bad_request", Message: fmt.Sprintf("profile name %q: not lower-case letters, digits, dots, hyphens and underscores", name)}
	}
	return nil
}

// machine is what differs between architectures.
type machine struct {
	kernel string // package of the stock kernel
	elf    string // e_machine of programs, as debug/elf names it
}

var machines = map[node.Arch]machine{
	node.AMD64:   {kernel: "linux-image-amd64", elf: "EM_X86_64"},
	node.ARM64:   {kernel: "linux-image-arm64", elf: "EM_AARCH64"},
	node.PPC64EL: {kernel: "linux-image-powerpc64le", elf: "EM_PPC64"},
}

func checkArch(arch node.Arch) error {
	if _, ok := machines[arch]; !ok {
		return &api.Error{Code: "bad_request", Message: fmt.Sprintf("architecture %q is none of amd64, arm64, ppc64el", arch)}
	}
	return nil
}

// OtherAgent tells whether the image has another agent than the given program.
func (s Stateless) OtherAgent(program string) (bool, error) {
	_, sum, err := hashFile(program)
	return err == nil && sum != s.Agent, err
}
