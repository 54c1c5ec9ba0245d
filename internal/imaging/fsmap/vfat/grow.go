package vfat

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/fsmap/tree"
)

const (
	// spare clusters are left free below the most that there may be: Microsoft asks for it, as some count wrongly by a few.
	spare = 16
	// moveAlign keeps clusters where they lie well on disks with physical sectors of 4 KiB.
	moveAlign = 4096
)

// growth is what a filesystem becomes.
type growth struct {
	total    int64   // sectors
	table    int64   // bytes of one copy of the table
	clusters cluster // in all
	shift    int64   // bytes by which all that lies behind the tables moves
}

// Grow makes a filesystem as large as the volume of size bytes at whose start it lies, as far as its kind of FAT can
// have clusters. Tables become longer, and all that lies behind them moves by as much; so each cluster keeps its number, and
// no folder and no chain changes. It returns how many bytes it has then, and why it has not all of the volume. With 0 bytes
// nothing was written, and it is as it was.
//
// While things are moved there is no boot sector: a filesystem that was half moved, when the power fails, is not taken
// for a good one.
func Grow(f fact.Disk, size int64) (n int64, why string, err error) {
	v := &volume{r: f, size: size}
	used, g, err := v.plan()
	var d damage
	if errors.As(err, &d) {
		return 0, err.Error(), nil
	}
	if err != nil {
		return 0, "", err
	}
	if err := v.grow(f, used, g); err != nil {
		return 0, "", err
	}
	if g.total < v.size/v.sector {
		why = v.noNumbers()
	}
	return g.total * v.sector, why, v.checkGrown(f, used, g)
}

// plan decides what the filesystem becomes, and returns what moves then. Damage is why it cannot grow.
func (v *volume) plan() (extent.List, growth, error) {
	used, err := v.used()
	if err != nil {
		return nil, growth{}, err
	}
	if err := v.starts(); err != nil {
		return nil, growth{}, err
	}
	if v.active >= 0 {
		return nil, growth{}, damaged("only copy %d of its table counts", v.active+1)
	}
	most := maxFAT32
	switch v.bits {
	case 12:
		most = minFAT16 - 1
	case 16:
		most = minFAT32 - 1
	}
	most -= spare
	g := growth{total: min(v.size/v.sector, 1<<32-1), table: v.tableLen}
	for step := max(v.clusterSize, moveAlign); ; g.table += step {
		g.shift = v.copies * (g.table - v.tableLen)
		g.clusters = min(cluster((g.total*v.sector-v.dataAt-g.shift)/v.clusterSize), most)
		if (int64(g.clusters+firstCluster)*v.bits+7)/8 <= g.table {
			break
		}
	}
	switch {
	case g.clusters <= v.clusters && v.clusters >= most:
		return nil, g, damaged("%s", v.noNumbers())
	case g.clusters <= v.clusters || v.bits != 32 && g.table/v.sector > 0xffff:
		return nil, g, damaged("there is no room for more clusters")
	case g.clusters == most:
		g.total = (v.dataAt + g.shift + int64(most)*v.clusterSize) / v.sector
	}
	return used.Clip(extent.Extent{Off: v.rootAt, Len: v.dataAt + int64(v.clusters)*v.clusterSize - v.rootAt}), g, nil
}

func (v *volume) noNumbers() string {
	return fmt.Sprintf("FAT%d has no numbers for more clusters of %d bytes", v.bits, v.clusterSize)
}

// starts refuses a filesystem with a boot loader that knows where on the volume its own files lie, and would not find
// them any more.
func (v *volume) starts() error {
	for _, name := range []string{"GRUB", "LILO", "SYSLINUX"} {
		if bytes.Contains(v.raw, []byte(name)) {
			return damaged("%s starts from it, and knows by place where its files lie", name)
		}
	}
	t := &Tree{v}
	var found string
	err := t.Dir(t.Root(), func(e tree.Entry) error {
		if strings.EqualFold(e.Name, "ldlinux.sys") {
			found = e.Name
		}
		return nil
	})
	if err == nil && found != "" {
		err = damaged("SYSLINUX starts from it, and knows by place where its files lie (%s)", found)
	}
	return err
}

func (v *volume) grow(f fact.Disk, used extent.List, g growth) error {
	boot, backup := slices.Clone(v.raw), make([]byte, bootLen)
	if v.backup > 0 {
		if err := v.read(backup, v.backup*v.sector); err != nil {
			return fmt.Errorf("read the backup of the boot sector: %w", err)
		}
	}
	both := []struct {
		b  []byte
		at int64
	}{{backup, v.backup * v.sector}, {boot, 0}} // the one that counts comes last
	if backup[510] != 0x55 || backup[511] != 0xaa {
		both = both[1:]
	}
	for _, s := range both {
		if err := fact.Zero(f, s.at, bootLen); err != nil {
			return fmt.Errorf("take the boot sector away: %w", err)
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := fact.MoveUp(f, used, g.shift); err != nil {
		return fmt.Errorf("move clusters: %w", err)
	}
	if err := v.growTables(f, g); err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	if err := v.growInfo(f, g); err != nil {
		return fmt.Errorf("write FSInfo: %w", err)
	}
	for _, s := range both {
		v.describe(s.b, g)
		if err := f.Sync(); err != nil {
			return err
		}
		if err := fact.Put(f, s.b, s.at); err != nil {
			return fmt.Errorf("write the boot sector: %w", err)
		}
	}
	return f.Sync()
}

// describe puts the new sizes into a boot sector.
func (v *volume) describe(b []byte, g growth) {
	if v.bits == 32 {
		le.PutUint32(b[0x24:], uint32(g.table/v.sector))
	} else {
		le.PutUint16(b[0x16:], uint16(g.table/v.sector))
	}
	if le.Uint16(b[0x13:]) != 0 && g.total <= 0xffff {
		le.PutUint16(b[0x13:], uint16(g.total))
		if le.Uint32(b[0x20:]) != 0 {
			le.PutUint32(b[0x20:], uint32(g.total))
		}
		return
	}
	le.PutUint16(b[0x13:], 0)
	le.PutUint32(b[0x20:], uint32(g.total))
}

// growTables writes all copies of the table: the first one's entries, with free ones behind.
func (v *volume) growTables(f fact.Disk, g growth) error {
	// What stands behind the last cluster's entry has no meaning until there are such clusters.
	bits := int64(v.clusters+firstCluster) * v.bits
	end := v.tableAt + bits/8
	if bits%8 != 0 { // of FAT12
		b := make([]byte, 1)
		if err := v.read(b, end); err != nil {
			return err
		}
		b[0] &= 0x0f
		if err := fact.Put(f, b, end); err != nil {
			return err
		}
		end++
	}
	if err := fact.Zero(f, end, v.tableAt+g.table-end); err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for c := int64(1); c < v.copies; c++ {
		for at := int64(0); at < g.table; at += int64(len(buf)) {
			b := buf[:min(int64(len(buf)), g.table-at)]
			if err := fact.Copy(f, b, v.tableAt+at, v.tableAt+c*g.table+at); err != nil {
				return err
			}
		}
	}
	return nil
}

// growInfo corrects how many clusters are free, where FSInfo and its backup know it.
func (v *volume) growInfo(f fact.Disk, g growth) error {
	if v.info == 0 {
		return nil
	}
	for _, sector := range []int64{v.info, v.backup + v.info} {
		if sector >= v.tableAt/v.sector || sector == v.info && v.backup == sector {
			continue
		}
		b := make([]byte, bootLen)
		if err := v.read(b, sector*v.sector); err != nil {
			return err
		}
		if string(b[:4]) != "RRaA" || string(b[0x1e4:0x1e8]) != "rrAa" || le.Uint32(b[0x1e8:]) == 0xffffffff {
			continue
		}
		le.PutUint32(b[0x1e8:], uint32(int64(g.clusters)-v.marked.Count()))
		if err := fact.Put(f, b, sector*v.sector); err != nil {
			return err
		}
	}
	return nil
}

// checkGrown reads all of it again: nothing but places may have changed.
func (v *volume) checkGrown(f fact.Disk, used extent.List, g growth) error {
	n := &volume{r: f, size: v.size}
	again, err := n.used()
	if err != nil {
		return fmt.Errorf("look at what has grown: %w", err)
	}
	moved := again.Clip(extent.Extent{Off: n.rootAt, Len: n.dataAt + int64(n.clusters)*n.clusterSize - n.rootAt})
	if n.clusters != g.clusters || n.dataAt != v.dataAt+g.shift || !slices.Equal(moved, used.Shift(g.shift)) {
		return errors.New("look at what has grown: other clusters are in use than before")
	}
	return nil
}
