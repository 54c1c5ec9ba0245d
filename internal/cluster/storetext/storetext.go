// Package storetext says in words what work on the store as a whole has found and done.
package storetext

import (
	"fmt"
	"io"
	"strings"

	"mimeo/internal/cluster/api"
)

// Size writes bytes as people read them: powers of 1024, three digits.
func Size(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n)/1024, 0
	for f >= 999.5 && unit < 4 {
		f, unit = f/1024, unit+1
	}
	digits := 2
	if f >= 99.95 {
		digits = 0
	} else if f >= 9.995 {
		digits = 1
	}
	return fmt.Sprintf("%.*f %s", digits, f, []string{"KiB", "MiB", "GiB", "TiB", "PiB"}[unit])
}

// maxLines bounds the problems and losses that are written out; all that are known are in the JSON.
const maxLines = 20

// Check writes what a check has found. readData says that chunks were to be read.
func Check(w io.Writer, c *api.StoreCheck, readData bool) {
	fmt.Fprintf(w, "%d packs of %s, %d chunks, %d revisions\n", c.Packs, Size(c.Bytes), c.Chunks, len(c.Revisions))
	if readData {
		fmt.Fprintf(w, "%s read and checked\n", Size(c.Read))
	}
	for i, p := range c.Problems {
		if i == maxLines {
			fmt.Fprintf(w, "... and %d problems more (see --json)\n", len(c.Problems)-i)
			break
		}
		fmt.Fprintln(w, "problem:", p)
	}
	for i, n := range c.Notes {
		if i == maxLines {
			fmt.Fprintf(w, "... and %d notes more (see --json)\n", len(c.Notes)-i)
			break
		}
		fmt.Fprintln(w, "note:", n)
	}
	hurtText(w, c.Hurt())
	switch {
	case !c.OK():
	case readData:
		fmt.Fprintln(w, "all is whole: every chunk was read and is what its name says")
	default:
		fmt.Fprintln(w, "all fits together; what the chunks hold was not read (--read-data reads it)")
	}
}

func hurtText(w io.Writer, hurt []api.StoreCheckRevision) {
	for _, r := range hurt {
		fmt.Fprintf(w, "%s@%d of %s is NOT whole: %d pieces missing, %d damaged, %s of its disk lost\n", r.Image, r.Rev, r.Created.Format("2006-01-02"), r.Missing, r.Damaged, Size(r.Lost))
		if r.Error != "" {
			fmt.Fprintf(w, "  %s\n", r.Error)
		}
		for _, l := range r.Losses {
			fmt.Fprintf(w, "  disk offset %d, %d bytes: chunk %.16s: %s\n", l.Off, l.Len, l.ID, l.Why)
		}
	}
}

// CheckError is the error that a check with such a result ends in, nil where all is whole.
func CheckError(c *api.StoreCheck, repair string) error {
	if c.OK() {
		return nil
	}
	hurt := c.Hurt()
	e := &api.Error{Code: "damaged", Message: fmt.Sprintf("the store is damaged: %d problems, %d of %d revisions are not whole", len(c.Problems), len(hurt), len(c.Revisions)),
		Hint: fmt.Sprintf("%q shows what it would set aside; capturing the same disk again then stores anew what is lost of it", repair)}
	if len(hurt) == 0 {
		e.Message = fmt.Sprintf("the store is damaged: %d problems, but every revision is whole", len(c.Problems))
		e.Hint = fmt.Sprintf("%q puts it in order", repair)
	}
	return e
}

// GC writes what removing garbage has done, or would do.
func GC(w io.Writer, r *api.StoreGC) {
	fmt.Fprintf(w, "of %s in the store %s are needed, %s are kept for captures that run or were cut off, %s are garbage\n", Size(r.Bytes), Size(r.Live), Size(r.Young), Size(r.Garbage))
	for _, p := range r.Problems {
		fmt.Fprintln(w, "problem:", p)
	}
	did := "freed"
	if r.DryRun {
		did = "would free"
	}
	fmt.Fprintf(w, "%s %s: %d packs removed, %d rewritten, for which %s are copied; %d manifests removed\n", did, Size(r.Freed), r.Removed, r.Rewritten, Size(r.Copied), r.Manifests)
	if r.Left > 0 {
		fmt.Fprintf(w, "%s of garbage stay, in packs that are not worth rewriting yet\n", Size(r.Left))
	}
}

// Repair writes what a repair has done, or would do.
func Repair(w io.Writer, r *api.StoreRepair) {
	for i, p := range r.Problems {
		if i == maxLines {
			fmt.Fprintf(w, "... and %d problems more (see --json)\n", len(r.Problems)-i)
			break
		}
		fmt.Fprintln(w, "found:", p)
	}
	did, made := "set aside", "made again"
	if r.DryRun {
		did, made = "would set aside", "to be made again"
	}
	for _, f := range append(append([]string{}, r.Packs...), r.Records...) {
		fmt.Fprintf(w, "%s: %s\n", did, f)
	}
	fmt.Fprintf(w, "%d chunks lost, %d found a second time, %s copied; %d index files %s\n", r.Lost, r.Found, Size(r.Copied), r.IndexFiles, made)
	hurtText(w, r.Revisions)
	switch {
	case len(r.Revisions) > 0:
		fmt.Fprintln(w, "what of these the next capture of the same disk has, it stores anew; what it has not is gone (mimeo image rm)")
	case r.DryRun && len(r.Problems) == 0 && r.IndexFiles == 0:
		fmt.Fprintln(w, "there is nothing to repair")
	default:
		fmt.Fprintln(w, "every revision is whole")
	}
}

// RepairError is the error that a repair with such a result ends in, nil where every revision is whole.
func RepairError(r *api.StoreRepair) error {
	if len(r.Revisions) == 0 {
		return nil
	}
	return &api.Error{Code: "damaged", Message: fmt.Sprintf("%d revisions are not whole", len(r.Revisions)), Hint: "capture the same disks again; what is not healed by that is lost"}
}

// Copied says what was copied to a second store, or would be.
func Copied(w io.Writer, r *api.StoreCopied, dry bool) {
	did := "copied"
	if dry {
		did = "would be copied"
	}
	if len(r.Copied) > 0 {
		fmt.Fprintf(w, "%s: %s\n", did, strings.Join(r.Copied, " "))
	}
	fmt.Fprintf(w, "%d revisions %s, %d chunks, %s; %d were there already\n", len(r.Copied), did, r.Chunks, Size(r.Stored), r.There)
	for _, p := range r.Problems {
		fmt.Fprintf(w, "not copied: %s\n", p)
	}
}

// Repack writes what compressing again has done, or would do.
func Repack(w io.Writer, r *api.StoreRepack) {
	for _, p := range r.Problems {
		fmt.Fprintln(w, "problem:", p)
	}
	switch {
	case r.Packs == 0:
		fmt.Fprintln(w, "there is nothing to compress again")
	case r.DryRun:
		fmt.Fprintf(w, "%d packs of %s would take about %s, as %d chunks of them tell: some %s would be free\n", r.Packs, Size(r.Bytes), Size(r.After), r.Chunks, Size(r.Freed))
	case r.Freed < 0:
		fmt.Fprintf(w, "%d packs of %s were gone through: %d chunks are smaller, in new packs of %s; the old ones stay beside them\n", r.Packs, Size(r.Bytes), r.Chunks, Size(r.After))
	default:
		fmt.Fprintf(w, "%d packs of %s were gone through: %d chunks are smaller, %s are free\n", r.Packs, Size(r.Bytes), r.Chunks, Size(r.Freed))
	}
}
