package manifest

import (
	"fmt"
	"strconv"
	"strings"
)

// What grows on a larger disk, where it is no name of a volume.
const (
	GrowNone = "none" // nothing does
	GrowLast = "last" // the volume that lies last
)

// GrowError says why what was named cannot grow.
type GrowError struct {
	Name string // as it was asked for
	Why  string
}

func (e *GrowError) Error() string { return fmt.Sprintf("%q cannot grow: %s", e.Name, e.Why) }

// lvmMember is the type of a volume that holds logical volumes.
const lvmMember = "LVM2_member"

// Grows returns the volume that grows as spec says: GrowNone, GrowLast, or the name of one. That is a partition's number,
// name or UUID, a filesystem's label or UUID, or GROUP/VOLUME of a logical volume, for which the physical volume that lies
// last is returned, and GROUP/VOLUME. ok is false where none grows; an error is a *GrowError.
func (m *Manifest) Grows(spec string) (v Volume, logical string, ok bool, err error) {
	switch spec {
	case "", GrowNone:
		return v, "", false, nil
	case GrowLast:
		v, ok = m.last(func(Volume) bool { return true })
		return v, "", ok, nil
	}
	fail := func(format string, args ...any) (Volume, string, bool, error) {
		return Volume{}, "", false, &GrowError{Name: spec, Why: fmt.Sprintf(format, args...)}
	}
	var found []Volume
	for _, v := range m.Volumes {
		if m.called(v, spec) {
			found = append(found, v)
		}
	}
	if len(found) == 1 {
		return found[0], "", true, nil
	}
	if len(found) > 1 {
		return fail("%d volumes of the image are called that; say the number of its partition", len(found))
	}
	if group, name, is := strings.Cut(spec, "/"); is && group != "" && name != "" && !strings.Contains(name, "/") {
		if v, ok = m.last(func(v Volume) bool { return v.Type == lvmMember }); ok {
			return v, spec, true, nil
		}
		return fail("the image has no LVM")
	}
	return fail("the image has no volume of that number, name, label or UUID")
}

// last returns the volume that lies last, if it is one of those that are meant.
func (m *Manifest) last(meant func(Volume) bool) (last Volume, ok bool) {
	for _, v := range m.Volumes {
		if meant(v) && v.Off >= last.Off {
			last, ok = v, true
		}
	}
	return last, ok
}

// called tells whether a name is one of v's.
func (m *Manifest) called(v Volume, name string) bool {
	if n, err := strconv.Atoi(name); err == nil && v.Partition > 0 && n == v.Partition {
		return true
	}
	names := []string{v.UUID}
	exact := []string{v.Label}
	for _, p := range m.Table.Partitions {
		if p.Number == v.Partition {
			names, exact = append(names, p.UUID), append(exact, p.Name)
		}
	}
	for _, n := range names {
		if n != "" && strings.EqualFold(n, name) {
			return true
		}
	}
	for _, n := range exact {
		if n != "" && n == name {
			return true
		}
	}
	return false
}
