// Package retain decides which revisions of an image a retention rule keeps.
package retain

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"mimeo/internal/cluster/api"
)

// Revision is what a rule looks at.
type Revision struct {
	Rev     int
	Created time.Time
	Pinned  bool
	InUse   bool // a job deploys it
}

// Apply says of each revision whether it stays, and why, in ascending order of their numbers. Days and weeks are those
// of zone; a week is ISO 8601's. A rule of which all is zero keeps everything. The newest revision always stays, and so
// do those that are pinned or in use; a pinned one is counted by no part of the rule.
func Apply(rule api.RetentionRule, revs []Revision, zone *time.Location) []api.RetentionVerdict {
	revs = slices.Clone(revs)
	slices.SortFunc(revs, func(a, b Revision) int { return cmp.Compare(b.Rev, a.Rev) }) // the newest first
	out := make([]api.RetentionVerdict, len(revs))
	keep := func(i int, why string) {
		out[i].Keep = true
		out[i].Why = append(out[i].Why, why)
	}
	last := 0
	days := periods{left: rule.Daily}
	weeks := periods{left: rule.Weekly}
	for i, r := range revs {
		at := r.Created.In(zone)
		out[i] = api.RetentionVerdict{Rev: r.Rev, Created: r.Created, Pinned: r.Pinned, Why: []string{}}
		if i == 0 {
			keep(i, "newest")
		}
		if rule == (api.RetentionRule{}) {
			keep(i, "no rule")
		}
		if r.InUse {
			keep(i, "in use")
		}
		if r.Pinned {
			keep(i, "pinned")
			continue
		}
		if last < rule.Last {
			last++
			keep(i, fmt.Sprintf("last %d", last))
		}
		if days.first(at.Format(time.DateOnly)) {
			keep(i, "daily "+at.Format(time.DateOnly))
		}
		if year, week := at.ISOWeek(); weeks.first(fmt.Sprintf("%04d-W%02d", year, week)) {
			keep(i, "weekly "+weeks.seen)
		}
	}
	slices.Reverse(out)
	return out
}

// periods counts days or weeks that have a revision.
type periods struct {
	left int
	seen string // the one that was met last
}

// first tells whether a revision is the newest of a period that counts. Revisions come in descending order.
func (p *periods) first(period string) bool {
	if p.left == 0 || period == p.seen {
		return false
	}
	p.seen = period
	p.left--
	return true
}
