package server

import (
	"context"
	"fmt"
	"time"

	"mimeo/internal/boot/dhcp"
	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/inventory"
)

// What DHCP heard is kept by a goroutine of its own, and what comes in meanwhile in one transaction: a node must not
// wait for its offer while the event of another's reaches the disk.
const (
	maxHeard = 4096 // then DHCP waits
	maxKept  = 256  // in one transaction

	// Where more than a few events came in together, more are coming: the next transaction takes all of a while.
	manyHeard  = 4
	heardPause = 50 * time.Millisecond
)

// dhcpEvent takes what a node asked and got.
func (s *Server) dhcpEvent(e dhcp.Event) {
	if e.Node == "" { // discovered keeps what is known of it
		s.found.learn(e.MAC, e.Addr, e.Firmware, e.Arch, e.IPXE)
		return
	}
	s.heard <- e
}

// keepHeard writes down what comes in, until it is closed.
func (s *Server) keepHeard() {
	for e := range s.heard {
		batch := []dhcp.Event{e}
		for more := true; more && len(batch) < maxKept; {
			select {
			case e, ok := <-s.heard:
				if more = ok; ok {
					batch = append(batch, e)
				}
			default:
				more = false
			}
		}
		events := make([]api.Event, len(batch))
		for i, e := range batch {
			events[i] = s.eventOf(e) // asks the jobs, which may be waiting for the inventory: not within the transaction
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		if err := s.db.Update(ctx, func(t *inventory.Tx) error { return keep(t, batch, events) }); err != nil {
			s.log.Error("events of DHCP are lost", "events", len(batch), "first", batch[0].Node, "err", err)
		}
		for i := range events {
			s.counts.Event(events[i].Kind)
		}
		cancel()
		if len(batch) > manyHeard {
			time.Sleep(heardPause)
		}
	}
}

// eventOf is an event for people.
func (s *Server) eventOf(e dhcp.Event) api.Event {
	ev := api.Event{Time: e.Time, Node: e.Node, Job: s.jobHeard(e.Node, e.Kind == "dhcp-ack" && e.Firmware == "" && e.File == ""), Kind: e.Kind, Addr: e.MAC, Text: e.Text}
	if e.Addr.IsValid() {
		ev.Addr = e.Addr.String()
	}
	if e.File != "" {
		ev.Text = fmt.Sprintf("%s %s is told to load %s: %s", asker(e), e.Arch, e.File, e.Text)
	}
	return ev
}

// asker is what asked: a firmware, or the iPXE that it carries or has loaded.
func asker(e dhcp.Event) string {
	if e.IPXE {
		return "iPXE on " + string(e.Firmware)
	}
	return string(e.Firmware)
}

// keep writes down events and what they teach of their nodes. A request of an operating system teaches nothing of the
// firmware.
func keep(t *inventory.Tx, batch []dhcp.Event, events []api.Event) error {
	for i, e := range batch {
		if err := t.AddEvent(&events[i]); err != nil {
			return err
		}
		if e.Firmware != "" && e.File != "" {
			if err := t.Learn(e.Node, learnt(e), e.Arch); err != nil {
				return err
			}
		}
	}
	return nil
}

// learnt is the firmware that an event tells. The loader that iPXE is in a UEFI HTTP boot does not make the firmware
// another one, and it reports what it runs on, which a request of the firmware itself said better.
func learnt(e dhcp.Event) node.Firmware {
	if e.IPXE {
		return ""
	}
	return e.Firmware
}
