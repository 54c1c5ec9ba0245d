package server

import (
	"context"
	"fmt"
	"log/slog"

	"mimeo/internal/cluster/api"
	"mimeo/internal/manage/config"
	"mimeo/internal/manage/hook"
	"mimeo/internal/manage/inventory"
)

func newHooks(cfg config.Config, box hook.Box, log *slog.Logger) *hook.Hooks {
	o := hook.Options{Box: box, Folder: cfg.Hooks.Folder, Events: cfg.Hooks.Events, Log: log}
	for _, w := range cfg.Hooks.Web {
		o.Web = append(o.Web, hook.Web{URL: w.URL, Secret: w.Secret, Events: w.Events})
	}
	return hook.New(o)
}

// turns is told of each job that enters a phase or waits for a person, in the transaction that says so.
func (s *Server) turns(t *inventory.Tx, was, is api.Job) error {
	var event string
	switch {
	case was.Active && !is.Active:
		event = "job." + string(is.Phase)
	case was.Phase == api.PhaseQueued && is.Phase != api.PhaseQueued:
		event = "job.started"
	case is.Active && is.Waiting != "" && was.Waiting != is.Waiting:
		event = "job.waiting"
	default:
		return nil
	}
	if err := s.hooks.Keep(t, hook.Job(event, is)); err != nil {
		return err
	}
	if event == "job.done" && is.Kind == api.TaskCapture {
		text := fmt.Sprintf("captured from %s by job %s", is.Node, is.ID)
		return s.hooks.Keep(t, hook.Message{Event: "image.published", Text: text, Image: &hook.Image{Name: is.Image, Rev: is.Rev}})
	}
	return nil
}

// turned is told after that transaction, and does not wait.
func (s *Server) turned(was, is api.Job) {
	if was.Active && !is.Active {
		s.counts.Ended(is)
	}
	s.hooks.Wake()
}

// tell keeps what hooks are told, where it happens in no transaction.
func (s *Server) tell(ctx context.Context, m hook.Message) {
	if err := s.db.Update(ctx, func(t *inventory.Tx) error { return s.hooks.Keep(t, m) }); err != nil {
		s.log.Error("hooks are not told", "event", m.Event, "text", m.Text, "err", err)
	}
	s.hooks.Wake()
}

// eventTold keeps an event of a node, and what hooks are told of it.
func (s *Server) eventTold(ctx context.Context, e api.Event, event string) {
	s.counts.Event(e.Kind)
	err := s.db.Update(ctx, func(t *inventory.Tx) error {
		if err := t.AddEvent(&e); err != nil {
			return err
		}
		return s.hooks.Keep(t, hook.Message{Event: event, Text: e.Text, Node: &hook.Node{Name: e.Node, Addr: e.Addr}})
	})
	if err != nil {
		s.log.Error("event is lost", "node", e.Node, "kind", e.Kind, "err", err)
	}
	s.hooks.Wake()
}
