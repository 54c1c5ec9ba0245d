package schedule

import (
	"strings"
	"testing"
	"time"
)

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	z, err := Zone(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func TestNext(t *testing.T) {
	for _, c := range []struct {
		name, spec, after string
		want              []string
	}{
		{"working days", "Mon-Fri 02:00 UTC", "2026-03-05T12:00:00Z", []string{"2026-03-06T02:00:00Z", "2026-03-09T02:00:00Z", "2026-03-10T02:00:00Z"}},
		{"not the moment itself", "02:00 UTC", "2026-03-05T02:00:00Z", []string{"2026-03-06T02:00:00Z"}},
		{"a moment before", "02:00 UTC", "2026-03-05T01:59:59.999Z", []string{"2026-03-05T02:00:00Z"}},
		{"two times a day", "daily 14:00,2:30 UTC", "2026-12-31T03:00:00Z", []string{"2026-12-31T14:00:00Z", "2027-01-01T02:30:00Z"}},
		{"over the week's end", "Fri-Mon 1:00 UTC", "2026-03-05T00:00:00Z", []string{"2026-03-06T01:00:00Z", "2026-03-07T01:00:00Z", "2026-03-08T01:00:00Z", "2026-03-09T01:00:00Z", "2026-03-13T01:00:00Z"}},
		{"one day", "wednesday 23:59 UTC", "2026-02-25T23:59:30Z", []string{"2026-03-04T23:59:00Z"}},
		// 29 March 2026, 02:00 CET: the clock is set to 03:00 CEST.
		{"left out in spring", "02:30 Europe/Berlin", "2026-03-28T00:00:00Z", []string{"2026-03-28T02:30:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"}},
		{"as it is set forward", "02:00 Europe/Berlin", "2026-03-28T12:00:00Z", []string{"2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00"}},
		{"after the gap", "03:00 Europe/Berlin", "2026-03-28T12:00:00Z", []string{"2026-03-29T03:00:00+02:00", "2026-03-30T03:00:00+02:00"}},
		// 25 October 2026, 03:00 CEST: the clock is set back to 02:00 CET.
		{"twice in autumn", "02:30 Europe/Berlin", "2026-10-24T12:00:00Z", []string{"2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"}},
		{"between the two", "02:30 Europe/Berlin", "2026-10-25T00:45:00Z", []string{"2026-10-26T02:30:00+01:00"}},
		{"half an hour", "02:15 Australia/Lord_Howe", "2026-10-03T00:00:00Z", []string{"2026-10-04T02:30:00+11:00", "2026-10-05T02:15:00+11:00"}},
		{"at midnight", "00:10 America/Havana", "2026-03-07T12:00:00Z", []string{"2026-03-08T01:00:00-04:00", "2026-03-09T00:10:00-04:00"}},
		{"a day that was not", "09:00 Pacific/Apia", "2011-12-29T20:00:00Z", []string{"2011-12-31T00:00:00+14:00", "2011-12-31T09:00:00+14:00"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := Parse(c.spec, time.UTC)
			if err != nil {
				t.Fatal(err)
			}
			at, err := time.Parse(time.RFC3339, c.after)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range c.want {
				at = s.Next(at)
				if got := at.Format(time.RFC3339); got != want {
					t.Fatalf("got %s, want %s", got, want)
				}
			}
		})
	}
}

// Whatever the zone does to its clock, a daily time comes once for each day, in order.
func TestOnceADay(t *testing.T) {
	for _, z := range []string{"Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Havana", "Asia/Kathmandu", "Africa/Casablanca", "Antarctica/Troll", "UTC"} {
		for _, clock := range []string{"00:00", "00:30", "01:00", "01:30", "02:00", "02:30", "03:00", "12:00", "23:59"} {
			s, err := Parse(clock, zone(t, z))
			if err != nil {
				t.Fatal(err)
			}
			at := time.Date(2025, 12, 31, 23, 59, 30, 0, s.zone)
			for i := range 365 {
				next := s.Next(at)
				if d := next.Sub(at); i > 0 && (d < 21*time.Hour || d > 27*time.Hour) {
					t.Fatalf("%s %s: %v after %v comes %v", z, clock, d, at, next)
				}
				at = next
			}
			if y, m, d := at.Date(); y != 2026 || m != time.December || d != 31 {
				t.Errorf("%s %s: after 365 days it is %v", z, clock, at)
			}
		}
	}
}

func TestLast(t *testing.T) {
	s, err := Parse("Mon-Fri 02:00", time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	monday := time.Date(2026, 3, 2, 2, 0, 0, 0, time.UTC)
	for _, c := range []struct{ from, until, want time.Time }{
		{monday, monday, monday},
		{monday, monday.Add(-time.Second), time.Time{}},
		{monday, monday.Add(23 * time.Hour), monday},
		{monday, monday.AddDate(0, 0, 6), monday.AddDate(0, 0, 4)},
		{monday.AddDate(-3, 0, 0), monday.AddDate(0, 0, 6), monday.AddDate(0, 0, 4)},
		{monday.Add(time.Second), monday.Add(time.Hour), time.Time{}},
	} {
		if got := s.Last(c.from, c.until); !got.Equal(c.want) {
			t.Errorf("from %v until %v: %v, want %v", c.from, c.until, got, c.want)
		}
	}
}

func TestWrong(t *testing.T) {
	for spec, want := range map[string]string{
		"": "no time", "Mon": "no time of day", "Mon-Fry 02:00": `"fry" is no day`, "24:00": `"24:00" is no time of day`, "2:5": "no time of day", "-1:00": "is no time of day",
		"02:00 Europe/Nowhere": "no time zone", "02:00 UTC please": "too much", "m 02:00": "is no day", "Mond 02:00": "", "02:00,": `"" is no time`, "02:00 ../../etc/passwd": "no time zone", "+2:00": "is no time of day",
	} {
		_, err := Parse(spec, time.UTC)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", spec, err, want)
		}
	}
}

func TestParseAt(t *testing.T) {
	berlin := zone(t, "Europe/Berlin")
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for text, want := range map[string]string{
		"02:00": "2026-03-05T02:00:00+01:00", "06:07": "2026-03-04T06:07:00+01:00", "6:06": "2026-03-05T06:06:00+01:00",
		"2026-07-01 02:00": "2026-07-01T02:00:00+02:00", "2026-07-01T02:00": "2026-07-01T02:00:00+02:00", "2026-03-29 02:30": "2026-03-29T03:00:00+02:00",
		"2026-07-01T02:00:00-05:00": "2026-07-01T02:00:00-05:00", "2026-07-01T02:00:00Z": "2026-07-01T02:00:00Z",
		"soon": "", "Mon 02:00": "", "02:00 UTC": "", "02:00,03:00": "", "2026-13-01 02:00": "", "": "",
	} {
		got, err := ParseAt(text, now, berlin)
		if want == "" {
			if err == nil {
				t.Errorf("%q is %v", text, got)
			}
			continue
		}
		if err != nil || got.Format(time.RFC3339) != want {
			t.Errorf("%q: %v, %v; want %s", text, got.Format(time.RFC3339), err, want)
		}
	}
}
