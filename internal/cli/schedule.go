package cli

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
)

// later says when work is to be done, where that is not now.
type later struct {
	at, every string
	grace     time.Duration
}

func (l *later) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&l.at, "at", "", "do it at `TIME`: 02:00 (the next), \"2026-03-04 02:00\", or RFC 3339")
	f.StringVar(&l.every, "every", "", "do it again and again, at `TIMES`: \"Mon-Fri 02:00\", \"Sat,Sun 4:30,16:30\", \"daily 02:00 Europe/Berlin\"")
	f.DurationVar(&l.grace, "grace", time.Hour, "with --at and --every: how late it may begin where mimeod was down; 0 skips it then")
}

func (l *later) later() bool { return l.at != "" || l.every != "" }

func (l *later) text() string {
	if l.every != "" {
		return "every " + l.every
	}
	return "at " + l.at
}

func (l *later) check(watch bool) error {
	switch {
	case l.at != "" && l.every != "":
		return usagef("--at is for one time, --every for times that come again: say one of them")
	case watch && l.later():
		return usagef("--watch shows what is done now: leave it out with --at and --every")
	case l.grace < 0:
		return usagef("--grace: want 0 or more")
	}
	return nil
}

// addSchedule keeps work for later.
func (t *terminal) addSchedule(cmd *cobra.Command, req api.JobNew, at later) error {
	c, err := connect()
	if err != nil {
		return err
	}
	grace := at.grace.Milliseconds()
	ask := api.ScheduleNew{Key: req.Key, Job: req, At: at.at, Every: at.every, GraceMS: &grace}
	ask.Job.Key = ""
	var s api.Schedule
	if err := c.Do(cmd.Context(), http.MethodPost, "/v1/schedules", ask, &s); err != nil {
		return err
	}
	if t.json {
		return t.printJSON(s)
	}
	fmt.Fprintf(t.out, "%s\t%s, next %s\n", s.ID, work(s.Job), nextTime(s))
	return nil
}

// work says what a schedule does.
func work(j api.JobNew) string { return fmt.Sprintf("%s %s of %s", j.Kind, j.Image, j.Range) }

func when(s api.Schedule) string {
	if s.Every == "" {
		return "once"
	}
	if s.Zone != "Local" && s.Zone != "" && !strings.Contains(s.Every, s.Zone) {
		return s.Every + " " + s.Zone
	}
	return s.Every
}

// nextTime is when it is due, with the offset of the clock here, and how far off that is.
func nextTime(s api.Schedule) string {
	switch {
	case s.Next == nil:
		return "never"
	case s.Paused:
		return "paused"
	}
	return fmt.Sprintf("%s (in %s)", s.Next.Local().Format("Mon 2006-01-02 15:04 MST"), span(time.Until(*s.Next).Truncate(time.Second)))
}

func lastTime(s api.Schedule) string {
	switch {
	case s.Last == nil:
		return "-"
	case s.Last.Error != nil:
		return fmt.Sprintf("%s did not run: %s", s.Last.Planned.Local().Format("2006-01-02 15:04"), s.Last.Error.Message)
	case s.Last.Batch != "":
		return fmt.Sprintf("%s %s, %s", s.Last.Planned.Local().Format("2006-01-02 15:04"), s.Last.Batch, count(s.Last.Jobs, "job"))
	}
	return s.Last.Planned.Local().Format("2006-01-02 15:04")
}

func scheduleCmd(t *terminal) *cobra.Command {
	c := &cobra.Command{
		Use:   "schedule",
		Short: "List, show, remove, run and pause work that is kept for later",
		Long: `List, show, remove, run and pause work that is kept for later. "mimeo deploy" and
"mimeo capture" make it, with --at and --every.

Times are those of the management node's clock, unless they name an offset or a
zone ("Mon-Fri 02:00 Europe/Berlin"). Each clock time of a day comes once: one
that the change to summer time leaves out comes at the moment of the change, of
one that comes twice in autumn the first counts.

The range and the image are read when it is time: nodes that have joined a group
since are among them, and NAME means its newest revision then; NAME@REV stays.
Nodes that cannot take it then fail by themselves, the others go on.

A run that was missed, as mimeod was down, is begun late where that is within
its grace (--grace, one hour), and else left out; of several, the newest counts.
One whose last batch has not ended by then is left out, too. "show" tells.`,
		Example: `  mimeo deploy @lab3 --image win11 --every "Mon-Fri 02:00" --within 3h
  mimeo schedule list
  mimeo schedule run s1
  mimeo schedule pause s1        # and: mimeo schedule pause s1 --resume`,
	}
	c.AddCommand(scheduleListCmd(t), scheduleShowCmd(t), scheduleRemoveCmd(t), scheduleRunCmd(t), schedulePauseCmd(t))
	return c
}

func scheduleListCmd(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List schedules", Aliases: []string{"ls"}, Example: "  mimeo schedule list", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			var all []api.Schedule
			if err := c.Do(cmd.Context(), http.MethodGet, "/v1/schedules", nil, &all); err != nil {
				return err
			}
			if t.json {
				return t.printJSON(all)
			}
			rows := [][]string{{"SCHEDULE", "WORK", "WHEN", "NEXT", "LAST"}}
			for _, s := range all {
				rows = append(rows, []string{s.ID, work(s.Job), when(s), nextTime(s), lastTime(s)})
			}
			table(t.out, rows)
			return nil
		},
	}
}

func schedulePath(id string) string { return "/v1/schedules/" + url.PathEscape(id) }

func scheduleShowCmd(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "show SCHEDULE", Short: "Show a schedule, what became of its last time, and its batches", Example: "  mimeo schedule show s1", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			var s api.Schedule
			if err := c.Do(cmd.Context(), http.MethodGet, schedulePath(args[0]), nil, &s); err != nil {
				return err
			}
			if t.json {
				return t.printJSON(s)
			}
			rows := [][]string{{"schedule", s.ID}, {"work", work(s.Job)}, {"when", when(s)}, {"next", nextTime(s)}, {"grace", ms(s.GraceMS)}}
			if s.Job.Max > 0 {
				rows = append(rows, []string{"at a time", fmt.Sprint(s.Job.Max)})
			}
			if s.Job.WithinMS > 0 {
				rows = append(rows, []string{"begun within", ms(s.Job.WithinMS)})
			}
			rows = append(rows, []string{"last", lastTime(s)})
			if s.Last != nil && s.Last.Error != nil && s.Last.Error.Hint != "" {
				rows = append(rows, []string{"hint", s.Last.Error.Hint})
			}
			table(t.out, append(rows, []string{"batches", dash(strings.Join(s.Batches, " "))}))
			return nil
		},
	}
}

func scheduleRemoveCmd(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "rm SCHEDULE...", Short: "Remove schedules; what they started goes on", Example: "  mimeo schedule rm s1", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			for _, id := range args {
				if err := c.Do(cmd.Context(), http.MethodDelete, schedulePath(id), nil, nil); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func scheduleRunCmd(t *terminal) *cobra.Command {
	var yes, watch bool
	c := &cobra.Command{
		Use: "run SCHEDULE", Short: "Begin a schedule's work now, beside its times",
		Example: "  mimeo schedule run s1 --watch", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			var s api.Schedule
			if err := c.Do(cmd.Context(), http.MethodGet, schedulePath(args[0]), nil, &s); err != nil {
				return err
			}
			if s.Job.Kind == api.TaskDeploy {
				job := s.Job
				if _, err := t.preflight(cmd, &job, later{}, yes); err != nil {
					return err
				}
			}
			var jobs []api.Job
			if err := c.Do(cmd.Context(), http.MethodPost, schedulePath(args[0])+"/run", api.ScheduleRun{Key: newKey()}, &jobs); err != nil {
				return err
			}
			return t.started(cmd, jobs, watch)
		},
	}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask, however many disks")
	c.Flags().BoolVarP(&watch, "watch", "w", false, "show progress until all jobs end")
	return c
}

func schedulePauseCmd(t *terminal) *cobra.Command {
	var resume bool
	c := &cobra.Command{
		Use: "pause SCHEDULE...", Short: "Have schedules rest, or go on",
		Long:    "Have schedules rest, or go on (--resume). Times that pass meanwhile are not made up for.",
		Example: "  mimeo schedule pause s1\n  mimeo schedule pause s1 --resume", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			out := make([]api.Schedule, len(args))
			for i, id := range args {
				if err := c.Do(cmd.Context(), http.MethodPost, schedulePath(id)+"/pause", api.SchedulePause{Paused: !resume}, &out[i]); err != nil {
					return err
				}
				if !t.json {
					fmt.Fprintf(t.out, "%s\t%s, next %s\n", id, work(out[i].Job), nextTime(out[i]))
				}
			}
			if t.json {
				return t.printJSON(out)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&resume, "resume", false, "go on")
	return c
}
