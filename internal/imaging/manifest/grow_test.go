package manifest

import "testing"

func TestGrows(t *testing.T) {
	m := &Manifest{
		Table: Table{Kind: "gpt", Partitions: []Partition{
			{Number: 1, Off: 1 << 20, Len: 1 << 20, UUID: "aaaa-01", Name: "ESP"}, {Number: 3, Off: 9 << 20, Len: 1 << 20, Name: "root"},
			{Number: 2, Off: 4 << 20, Len: 1 << 20, UUID: "aaaa-02"}}},
		Volumes: []Volume{{Partition: 1, Off: 1 << 20, Type: "fat", UUID: "1234-ABCD", Label: "boot"}, {Partition: 2, Off: 4 << 20, Type: "LVM2_member"},
			{Partition: 3, Off: 9 << 20, Type: "ext4", Label: "root"}},
	}
	for _, tc := range []struct {
		spec      string
		partition int // -1: an error; 0: none
		logical   string
	}{
		{"", 0, ""}, {"none", 0, ""}, {"last", 3, ""}, {"2", 2, ""}, {"ESP", 1, ""}, {"boot", 1, ""}, {"1234-abcd", 1, ""}, {"AAAA-02", 2, ""}, {"root", 3, ""},
		{"vg0/root", 2, "vg0/root"}, {"esp", -1, ""}, {"7", -1, ""}, {"/dev/sda1", -1, ""}, {"vg0/", -1, ""}, {"vg0/a/b", -1, ""},
	} {
		v, logical, ok, err := m.Grows(tc.spec)
		if tc.partition < 0 != (err != nil) || ok != (tc.partition > 0) || ok && v.Partition != tc.partition || logical != tc.logical {
			t.Errorf("%q: %+v %q %v %v", tc.spec, v, logical, ok, err)
		}
	}
	m.Volumes[2].Label = "boot"
	if _, _, _, err := m.Grows("boot"); err == nil {
		t.Error("two volumes of one label: no error")
	}
	bare := &Manifest{Table: Table{Kind: "none"}, Volumes: []Volume{{Type: "xfs"}}}
	if v, _, ok, err := bare.Grows("last"); !ok || err != nil || v.Type != "xfs" {
		t.Errorf("a bare disk: %+v %v %v", v, ok, err)
	}
	if _, _, _, err := bare.Grows("vg0/root"); err == nil {
		t.Error("a disk without LVM: no error")
	}
}
