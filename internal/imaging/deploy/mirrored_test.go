package deploy

import (
	"strings"
	"testing"

	"mimeo/internal/imaging/fsmap"
	"mimeo/internal/imaging/fsmap/fact"
)

// TestMirroredStays lets no leg of a mirror grow: it would differ from the other.
func TestMirroredStays(t *testing.T) {
	leg := fsmap.Inner{Part: fact.Part{Name: "vg0/root", Leg: true}, Usage: fsmap.Usage{Type: "ext4"}}
	plain := fsmap.Inner{Part: fact.Part{Name: "vg0/home"}, Usage: fsmap.Usage{Type: "ext4"}}
	if in, why := chooseLogical([]fsmap.Inner{leg, plain}, ""); in.Name != "vg0/home" || why != "" {
		t.Errorf("%s, %q", in.Name, why)
	}
	if in, why := chooseLogical([]fsmap.Inner{leg}, ""); in.Name != "" || why == "" {
		t.Errorf("%s, %q", in.Name, why)
	}
	if in, why := chooseLogical([]fsmap.Inner{leg, plain}, "vg0/root"); in.Name != "" || !strings.Contains(why, "mirrored") {
		t.Errorf("%s, %q", in.Name, why)
	}
}
