package bootentry

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Dir is where the kernel shows the firmware's variables (efivarfs).
const Dir = "/sys/firmware/efi/efivars"

// global is the vendor GUID of the variables that the specification defines (3.3).
const global = "-8be4df61-93ca-11d2-aa0d-00e098032b8c"

// stored are the attributes of what is kept when the power goes, and can be read by the system (8.2).
const stored = 7

// maxVar is the most that we read of a variable, in bytes; an entry has some hundreds.
const maxVar = 64 << 10

// Kind is what an entry boots from.
type Kind string

// The kinds.
const (
	Network  Kind = "network"
	Disk     Kind = "disk"     // a file on a partition
	Firmware Kind = "firmware" // its menu or shell
	Other    Kind = "other"
)

// Entry is a boot entry as the firmware has it.
type Entry struct {
	Number uint16
	Option
}

// Kind tells what the entry boots from.
func (e Entry) Kind() Kind {
	switch {
	case e.isNetwork():
		return Network
	case e.isFirmware():
		return Firmware
	}
	if _, ok := e.partition(); ok && e.file() != "" {
		return Disk
	}
	return Other
}

// File is the path of the file that the entry starts, or "".
func (e Entry) File() string { return e.file() }

// GUID is that of the partition on which the file lies, or "".
func (e Entry) GUID() string {
	p, _ := e.partition()
	return p.GUID
}

// Read reads all boot entries from the firmware's variables, those of the boot order first and in its order. Entries
// that cannot be understood are passed over. A machine without such variables is an error for which errors.Is says
// fs.ErrNotExist.
func Read(dir string) ([]Entry, error) {
	v, err := readVars(dir)
	if err != nil {
		return nil, err
	}
	var out []Entry
	seen := map[uint16]bool{}
	for _, n := range v.order {
		if e, ok := v.entries[n]; ok && !seen[n] {
			out = append(out, e)
		}
		seen[n] = true
	}
	for _, n := range v.numbers() {
		if !seen[n] {
			out = append(out, v.entries[n])
		}
	}
	return out, nil
}

// vars are the variables of the boot order.
type vars struct {
	dir     string
	order   []uint16
	entries map[uint16]Entry
	taken   map[uint16]bool // numbers of entries, also of those that cannot be understood
}

func (v *vars) numbers() []uint16 {
	var out []uint16
	for n := range v.entries {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

func readVars(dir string) (*vars, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read the firmware's variables: %w", err)
	}
	if len(files) == 0 { // the folder that nothing is mounted on
		return nil, fmt.Errorf("the firmware shows no variables in %s: %w", dir, fs.ErrNotExist)
	}
	v := &vars{dir: dir, entries: map[uint16]Entry{}, taken: map[uint16]bool{}}
	for _, f := range files {
		n, ok := entryNumber(f.Name())
		if !ok {
			continue
		}
		v.taken[n] = true
		b, err := v.get(varName(n))
		if err != nil {
			return nil, err
		}
		if o, err := Parse(b); err == nil {
			v.entries[n] = Entry{n, o}
		}
	}
	b, err := v.get("BootOrder")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for ; len(b) >= 2; b = b[2:] {
		v.order = append(v.order, binary.LittleEndian.Uint16(b))
	}
	return v, nil
}

func varName(n uint16) string { return fmt.Sprintf("Boot%04X", n) }

// entryNumber reads Boot####-GUID, with upper case digits as 3.1.1 has it.
func entryNumber(file string) (uint16, bool) {
	name, ok := strings.CutSuffix(file, global)
	hex, is := strings.CutPrefix(name, "Boot")
	if !ok || !is || len(hex) != 4 || strings.ToUpper(hex) != hex {
		return 0, false
	}
	n, err := strconv.ParseUint(hex, 16, 16)
	return uint16(n), err == nil
}

// get reads a variable: four bytes of attributes come before its value.
func (v *vars) get(name string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(v.dir, name+global))
	if err != nil {
		return nil, fmt.Errorf("read the firmware's variable %s: %w", name, err)
	}
	if len(b) < 4 || len(b) > maxVar {
		return nil, fmt.Errorf("the firmware's variable %s has %d bytes", name, len(b))
	}
	return b[4:], nil
}

// put writes a variable, in one call as efivarfs wants it.
func (v *vars) put(name string, value []byte) error {
	f, err := os.OpenFile(filepath.Join(v.dir, name+global), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("write the firmware's variable %s: %w", name, err)
	}
	_, err = f.Write(append([]byte{stored, 0, 0, 0}, value...))
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write the firmware's variable %s: %w", name, err)
	}
	return nil
}

// Set makes the firmware have one active entry for each loader on partition p, in the boot order, and returns in words
// what it changed, nothing where all was right. Of the entries for files on p those are removed whose file is none of
// the loaders, or that another one repeats; all others stay. New entries come right behind the network where the boot
// order starts with it, else first. The order of those that were there is not changed.
func Set(dir string, p Partition, loaders []Loader) (changes []string, err error) {
	v, err := readVars(dir)
	if err != nil {
		return nil, err
	}
	hd, err := p.node()
	if err != nil {
		return nil, err
	}
	want := make([][]byte, len(loaders))
	for i, l := range loaders {
		file := Node{typeMedia, mediaFile, wide(l.Path)}
		if want[i], err = (Option{Attributes: active, Name: l.Name, Path: []Node{hd, file}}).Encode(); err != nil {
			return nil, err
		}
	}
	have, stale := v.match(p, loaders)
	var first []uint16
	for i, l := range loaders {
		n, ok := have[i]
		if e := v.entries[n]; ok && (!e.Active() || !slices.Equal(e.Path[0].Data, hd.Data)) {
			o := e.Option // with its name, and what it gives to the loader
			o.Attributes |= active
			o.Path = append([]Node{hd}, o.Path[1:]...)
			b, err := o.Encode()
			if err != nil {
				return changes, err
			}
			if err := v.put(varName(n), b); err != nil {
				return changes, err
			}
			changes = append(changes, fmt.Sprintf("boot entry %04X %q is now active, for %s on partition %d", n, o.Name, l.Path, p.Number))
		}
		if !ok {
			if n, err = v.free(); err != nil {
				return changes, err
			}
			if err := v.put(varName(n), want[i]); err != nil {
				return changes, err
			}
			v.taken[n], v.entries[n] = true, Entry{n, Option{Name: l.Name}}
			changes = append(changes, fmt.Sprintf("boot entry %04X %q is new, for %s on partition %d", n, l.Name, l.Path, p.Number))
		}
		if !slices.Contains(v.order, n) {
			first = append(first, n)
		}
	}
	order := slices.DeleteFunc(slices.Clone(v.order), func(n uint16) bool { return slices.Contains(stale, n) })
	order = slices.Insert(order, v.place(order), first...)
	if !slices.Equal(order, v.order) {
		var b []byte
		for _, n := range order {
			b = binary.LittleEndian.AppendUint16(b, n)
		}
		if err := v.put("BootOrder", b); err != nil {
			return changes, err
		}
		changes = append(changes, "boot order is now "+v.describe(order))
	}
	for _, n := range stale {
		if err := os.Remove(filepath.Join(v.dir, varName(n)+global)); err != nil {
			return changes, fmt.Errorf("remove boot entry %04X: %w", n, err)
		}
		changes = append(changes, fmt.Sprintf("boot entry %04X %q of this partition is removed: there is no %s, or another entry starts it", n, v.entries[n].Name, v.entries[n].file()))
	}
	return changes, nil
}

// match finds the entry of each loader, by its index, and the entries on p that are of no use any more.
func (v *vars) match(p Partition, loaders []Loader) (have map[int]uint16, stale []uint16) {
	have = map[int]uint16{}
	numbers := v.numbers()
	// Those of the boot order first: of two for the same file it is the one that is used.
	slices.SortStableFunc(numbers, func(a, b uint16) int {
		at := func(n uint16) int {
			if i := slices.Index(v.order, n); i >= 0 {
				return i
			}
			return len(v.order)
		}
		return at(a) - at(b)
	})
	for _, n := range numbers {
		e := v.entries[n]
		if q, ok := e.partition(); !ok || !strings.EqualFold(q.GUID, p.GUID) || e.file() == "" {
			continue
		}
		i := slices.IndexFunc(loaders, func(l Loader) bool { return strings.EqualFold(l.Path, e.file()) })
		if _, twice := have[i]; i < 0 || twice {
			stale = append(stale, n)
			continue
		}
		have[i] = n
	}
	return have, stale
}

// place is where in an order new entries go: behind the last network entry that nothing but the network and the
// firmware's own programs come before, or to the start.
func (v *vars) place(order []uint16) int {
	at := 0
	for i, n := range order {
		e, ok := v.entries[n]
		if !ok {
			continue // an entry that is gone, or that nobody can read
		}
		switch e.Kind() {
		case Network:
			at = i + 1
		case Firmware:
		default:
			return at
		}
	}
	return at
}

// free is the lowest number that no entry has.
func (v *vars) free() (uint16, error) {
	for n := range 0x10000 {
		if !v.taken[uint16(n)] && !slices.Contains(v.order, uint16(n)) {
			return uint16(n), nil
		}
	}
	return 0, errors.New("the firmware has no room for another boot entry")
}

func (v *vars) describe(order []uint16) string {
	var out []string
	for _, n := range order {
		s := fmt.Sprintf("%04X", n)
		if e, ok := v.entries[n]; ok && e.Name != "" {
			s += " " + e.Name
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}
