// Package schedule says when work is due that was ordered for later, and has it started.
package schedule

import (
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // zones by name, also where the system has no list of them
)

// Spec is a time that comes again: clock times on days of the week, in a time zone.
type Spec struct {
	days  [7]bool // by time.Weekday
	times []clock // in order, each once
	zone  *time.Location
}

// clock is a time of day.
type clock struct{ hour, minute int }

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// Parse reads "[DAYS] TIMES [ZONE]": "Mon-Fri 02:00", "Sat,Sun 4:30,16:30", "02:00", "daily 02:00 Europe/Berlin". Where
// no zone is named it is zone.
func Parse(text string, zone *time.Location) (Spec, error) {
	s := Spec{zone: zone}
	words := strings.Fields(strings.ReplaceAll(text, ", ", ","))
	wrong := func(format string, args ...any) (Spec, error) {
		return Spec{}, fmt.Errorf(`%q: %s; want [DAYS] TIMES [ZONE], as "Mon-Fri 02:00", "Sat,Sun 4:30,16:30" or "daily 02:00 Europe/Berlin"`, text, fmt.Sprintf(format, args...))
	}
	if len(words) == 0 {
		return wrong("there is no time")
	}
	if strings.Contains(words[0], ":") {
		s.days = [7]bool{true, true, true, true, true, true, true}
	} else {
		if err := s.readDays(words[0]); err != nil {
			return wrong("%v", err)
		}
		words = words[1:]
	}
	if len(words) == 0 {
		return wrong("there is no time of day")
	}
	for _, w := range strings.Split(words[0], ",") {
		c, err := readClock(w)
		if err != nil {
			return wrong("%v", err)
		}
		if !slices.Contains(s.times, c) {
			s.times = append(s.times, c)
		}
	}
	slices.SortFunc(s.times, func(a, b clock) int { return (a.hour-b.hour)*60 + a.minute - b.minute })
	switch len(words) {
	case 1:
	case 2:
		var err error
		if s.zone, err = Zone(words[1]); err != nil {
			return wrong("%v", err)
		}
	default:
		return wrong("%q is too much", strings.Join(words[2:], " "))
	}
	return s, nil
}

// Zone finds a time zone by its name in the IANA list; an empty one is the management node's own.
func Zone(name string) (*time.Location, error) {
	if name == "" || name == "Local" {
		return time.Local, nil
	}
	z, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("there is no time zone %q", name)
	}
	return z, nil
}

func (s *Spec) readDays(text string) error {
	for _, w := range strings.Split(strings.ToLower(text), ",") {
		if w == "daily" {
			w = "sun-sat"
		}
		from, to, row := strings.Cut(w, "-")
		a, err := readDay(from)
		if err != nil {
			return err
		}
		b := a
		if row {
			if b, err = readDay(to); err != nil {
				return err
			}
		}
		for d := a; ; d = (d + 1) % 7 { // a row may go over the week's end
			s.days[d] = true
			if d == b {
				break
			}
		}
	}
	return nil
}

// readDay takes a day's English name, or at least three letters of it.
func readDay(w string) (int, error) {
	for i, d := range weekdays {
		if full := strings.ToLower(time.Weekday(i).String()); strings.HasPrefix(w, d) && strings.HasPrefix(full, w) {
			return i, nil
		}
	}
	return 0, fmt.Errorf("%q is no day (Mon, Tue, Wed, Thu, Fri, Sat, Sun, daily)", w)
}

// readClock takes H:MM or HH:MM, 0:00 to 23:59.
func readClock(w string) (c clock, err error) {
	h, m, ok := strings.Cut(w, ":")
	if ok && digits(h, 1, 2) && digits(m, 2, 2) {
		c.hour, _ = strconv.Atoi(h)
		c.minute, _ = strconv.Atoi(m)
		if c.hour < 24 && c.minute < 60 {
			return c, nil
		}
	}
	return c, fmt.Errorf("%q is no time of day", w)
}

func digits(s string, least, most int) bool {
	return len(s) >= least && len(s) <= most && strings.Trim(s, "0123456789") == ""
}

// ZoneName is the name of the zone that the times are in.
func (s Spec) ZoneName() string { return s.zone.String() }

// Next is the first time after a moment. Each clock time of a chosen day comes once: one that the change to summer time
// leaves out comes at the moment of the change; of one that the change back gives twice, the first counts.
func (s Spec) Next(after time.Time) time.Time {
	y, m, d := after.In(s.zone).Date()
	for i := -1; i < 9; i++ {
		noon := time.Date(y, m, d+i, 12, 0, 0, 0, time.UTC)
		if !s.days[noon.Weekday()] {
			continue
		}
		for _, c := range s.times {
			if t := moment(noon, c, s.zone); t.After(after) {
				return t
			}
		}
	}
	return time.Time{} // cannot be: some day of a week is chosen
}

// Last is the newest time that is not after a moment, and not before another; zero where there is none.
func (s Spec) Last(from, until time.Time) (last time.Time) {
	// A time that comes at least once a week: the search begins nine days back, or later.
	if least := until.AddDate(0, 0, -9); from.Before(least) {
		from = least
	}
	for t := s.Next(from.Add(-time.Nanosecond)); !t.IsZero() && !t.After(until); t = s.Next(t) {
		last = t
	}
	return last
}

// moment is when a clock shows a time of a day: the first such moment, or, where the clock leaves it out, the moment at
// which the clock is set forward.
func moment(day time.Time, c clock, zone *time.Location) time.Time {
	wall := time.Date(day.Year(), day.Month(), day.Day(), c.hour, c.minute, 0, 0, time.UTC)
	// The offsets around that time: one where the clock is not set, two where it is.
	_, before := wall.Add(-26 * time.Hour).In(zone).Zone()
	_, later := wall.Add(26 * time.Hour).In(zone).Zone()
	early := wall.Add(-time.Duration(max(before, later)) * time.Second)
	late := wall.Add(-time.Duration(min(before, later)) * time.Second)
	shows := func(t time.Time) bool {
		_, off := t.In(zone).Zone()
		return t.Add(time.Duration(off) * time.Second).Equal(wall)
	}
	for _, t := range []time.Time{early, late} {
		if shows(t) {
			return t.In(zone)
		}
	}
	// In the gap: the first second at which the clock shows something later.
	n := sort.Search(int(late.Sub(early)/time.Second), func(i int) bool {
		t := early.Add(time.Duration(i) * time.Second)
		_, off := t.In(zone).Zone()
		return t.Add(time.Duration(off) * time.Second).After(wall)
	})
	return early.Add(time.Duration(n) * time.Second).In(zone)
}

// ParseAt reads a moment: RFC 3339, "2026-03-04 02:00", or a time of day, which is the next one. Without an offset it is
// the clock of zone.
func ParseAt(text string, now time.Time, zone *time.Location) (time.Time, error) {
	text = strings.TrimSpace(text)
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	day, at, dated := strings.Cut(strings.Replace(text, "T", " ", 1), " ")
	if !dated {
		s, err := Parse(text, zone)
		if err != nil || len(s.times) != 1 || strings.Contains(text, " ") {
			return time.Time{}, wrongAt(text)
		}
		return s.Next(now), nil
	}
	d, err := time.Parse(time.DateOnly, day)
	c, cerr := readClock(strings.TrimSpace(at))
	if err != nil || cerr != nil {
		return time.Time{}, wrongAt(text)
	}
	return moment(d, c, zone), nil
}

func wrongAt(text string) error {
	return fmt.Errorf(`%q is no moment: want 02:00, "2026-03-04 02:00" or 2026-03-04T02:00:00+01:00`, text)
}
