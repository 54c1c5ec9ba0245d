package retain

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"mimeo/internal/cluster/api"
)

// TestApply: revisions are numbered from 1; the text says what of them stays.
func TestApply(t *testing.T) {
	monday := time.Date(2026, 3, 2, 22, 0, 0, 0, time.UTC)
	hours := func(at ...int) (revs []Revision) {
		for i, h := range at {
			revs = append(revs, Revision{Rev: i + 1, Created: monday.Add(time.Duration(h) * time.Hour)})
		}
		return revs
	}
	nightly := hours(0, 24, 48, 72, 96, 120, 144, 168, 192, 216) // Monday to Wednesday of the next week
	pinned := hours(0, 24, 48, 72)
	pinned[0].Pinned, pinned[3].Pinned = true, true
	used := hours(0, 1, 2)
	used[0].InUse = true
	for _, c := range []struct {
		name string
		rule api.RetentionRule
		revs []Revision
		want string
	}{
		{"none", api.RetentionRule{Last: 1}, nil, ""},
		{"no rule keeps all", api.RetentionRule{}, nightly[:3], "1 2 3"},
		{"last", api.RetentionRule{Last: 2}, nightly, "9 10"},
		{"more than there are", api.RetentionRule{Last: 99}, nightly[:2], "1 2"},
		{"daily", api.RetentionRule{Daily: 3}, nightly, "8 9 10"},
		{"daily, several a day", api.RetentionRule{Daily: 2}, hours(-4, -3, -2, 24, 25), "3 5"},
		{"days without any do not count", api.RetentionRule{Daily: 2}, hours(0, 1, 240, 241), "2 4"},
		{"weekly", api.RetentionRule{Weekly: 5}, nightly, "7 10"},
		{"all three", api.RetentionRule{Last: 1, Daily: 2, Weekly: 2}, nightly, "7 9 10"},
		{"pinned ones stay and do not count", api.RetentionRule{Last: 1}, pinned, "1 3 4"},
		{"in use", api.RetentionRule{Last: 1}, used, "1 3"},
		{"the newest stays", api.RetentionRule{Weekly: 1}, hours(100, 0), "1 2"}, // a clock that was set back
	} {
		var got []string
		for _, v := range Apply(c.rule, c.revs, time.UTC) {
			if v.Keep != (len(v.Why) > 0) {
				t.Errorf("%s: %+v", c.name, v)
			}
			if v.Keep {
				got = append(got, fmt.Sprint(v.Rev))
			}
		}
		if c.name == "the newest stays" {
			if len(got) == 0 || got[len(got)-1] != "2" {
				t.Errorf("%s: %v", c.name, got)
			}
			continue
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: keeps %v, want %s", c.name, got, c.want)
		}
	}
}

// TestZone counts days as the management node's clock does.
func TestZone(t *testing.T) {
	at := time.Date(2026, 3, 2, 23, 30, 0, 0, time.UTC)
	revs := []Revision{{Rev: 1, Created: at.Add(-time.Hour)}, {Rev: 2, Created: at}}
	if v := Apply(api.RetentionRule{Daily: 2}, revs, time.UTC); v[0].Keep {
		t.Errorf("%+v", v)
	}
	if v := Apply(api.RetentionRule{Daily: 2}, revs, time.FixedZone("", 3600)); !v[0].Keep {
		t.Errorf("%+v", v)
	}
}

// TestStable: what a rule has kept once, it keeps when it is asked again.
func TestStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rule := api.RetentionRule{Last: rapid.IntRange(0, 4).Draw(t, "last"), Daily: rapid.IntRange(0, 4).Draw(t, "daily"), Weekly: rapid.IntRange(0, 4).Draw(t, "weekly")}
		at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		var revs []Revision
		for i := range rapid.IntRange(0, 40).Draw(t, "revisions") {
			at = at.Add(time.Duration(rapid.IntRange(0, 60).Draw(t, "hours")) * time.Hour)
			revs = append(revs, Revision{Rev: i + 1, Created: at, Pinned: rapid.IntRange(0, 9).Draw(t, "pinned") == 0})
		}
		var left []Revision
		for i, v := range Apply(rule, revs, time.UTC) {
			if v.Keep {
				left = append(left, revs[i])
			} else if revs[i].Pinned || i == len(revs)-1 {
				t.Fatalf("%+v goes", v)
			}
		}
		for _, v := range Apply(rule, left, time.UTC) {
			if !v.Keep {
				t.Fatalf("%+v goes the second time", v)
			}
		}
	})
}
