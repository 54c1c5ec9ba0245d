package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/imaging/store/httpstore"
	"mimeo/internal/manage/inventory"
	"mimeo/internal/manage/job"
	"mimeo/internal/manage/stateless"
)

// maxAgentBody bounds a message of an agent; postscripts' outputs are its largest part.
const maxAgentBody = 16 << 20

// caller is an agent as its token names it.
type caller struct {
	node node.Name
	job  string         // "" for a boot without a job
	boot node.BootState // of a boot without a job: what it was made for
	new  string         // MAC of a machine that was discovered: it may report its hardware, and nothing else
}

// agentAuth finds out who calls. A job's token is good for that job and node alone; whether the job is still on is
// for the handler to say.
func (s *Server) agentAuth(r *http.Request) (caller, error) {
	denied := &api.Error{Code: "denied", Message: "this token is not known, or not good any more", Hint: "a node gets a new one with each boot"}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return caller{}, denied
	}
	kind, subject, nonce, ok := s.readToken(token)
	if !ok {
		return caller{}, denied
	}
	switch kind {
	case tokenJob:
		rec, err := s.jobs.Get(r.Context(), subject)
		if err != nil || string(rec.Node) != nonce {
			return caller{}, denied
		}
		return caller{node: rec.Node, job: subject}, nil
	case tokenNew:
		return caller{new: subject}, nil
	case tokenBoot:
		f, err := s.db.Facts(r.Context(), node.Name(subject))
		nonce, state, _ := strings.Cut(nonce, "-")
		if err != nil || f.BootNonce != nonce {
			return caller{}, denied
		}
		return caller{node: node.Name(subject), boot: node.BootState(state)}, nil
	}
	return caller{}, denied
}

// agentCall wraps a handler of the agent's part: who calls, one JSON message in, one out.
func agentCall[In, Out any](s *Server, f func(ctx context.Context, c caller, r *http.Request, in In) (Out, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c, err := s.agentAuth(r)
		if err == nil && c.new != "" && r.URL.Path != api.PathHello {
			err = &api.Error{Code: "denied", Message: "this token is good for reporting hardware alone"}
		}
		if err != nil {
			writeError(w, err)
			return
		}
		var in In
		got := s.hurry(w)
		err = json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAgentBody)).Decode(&in)
		got(err)
		if err != nil {
			writeError(w, &api.Error{Code: "bad_request", Message: "read the message: " + err.Error()})
			return
		}
		out, err := f(r.Context(), c, r, in)
		if err != nil {
			writeError(w, err)
			return
		}
		if _, none := any(out).(struct{}); none {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		writeJSON(w, out)
	}
}

// hello answers an agent with its task.
func (s *Server) hello(ctx context.Context, c caller, r *http.Request, h api.Hello) (api.Task, error) {
	if h.Version != api.AgentVersion {
		return api.Task{}, &api.Error{Code: "bad_request", Message: fmt.Sprintf("agent speaks version %d, this server %d", h.Version, api.AgentVersion), Hint: "build the stateless image again: mimeo stateless build"}
	}
	if c.new != "" {
		return s.helloUnknown(ctx, c.new, remoteAddr(r), h)
	}
	n, err := s.db.Node(ctx, c.node)
	if err != nil {
		return api.Task{}, err
	}
	if c.job != "" && s.jobOf(c.node) != c.job {
		// A token is good until its job ends: what comes with it later is not believed.
		return api.Task{Kind: api.TaskReboot, Node: c.node, Job: c.job}, nil
	}
	if err := s.keepHardware(ctx, c.node, h.Hardware); err != nil {
		return api.Task{}, err
	}
	// An agent that waits says hello again and again; only the first of a boot is news.
	if old, _ := s.boots.Swap(c.node, h.BootID); old != h.BootID {
		s.event(ctx, api.Event{Node: c.node, Job: c.job, Kind: "agent", Addr: remoteAddr(r).String(),
			Text: fmt.Sprintf("agent %s is up, %.1f s after its kernel: %s %s, %s, %d MiB of memory, %s", h.Agent, float64(h.BootMS)/1000, h.Hardware.Vendor, h.Hardware.Product, h.Hardware.Arch, h.Hardware.Memory>>20, disksText(h.Hardware.Disks))})
	}
	if c.job == "" {
		return s.bootTask(ctx, n, c.boot, s.addrFor(remoteAddr(r), localAddr(r)))
	}
	rec, ok, err := s.jobs.Hello(ctx, c.job, h)
	if err != nil {
		return api.Task{}, err
	}
	if !ok {
		return api.Task{Kind: api.TaskReboot, Node: c.node, Job: c.job}, nil
	}
	t, err := s.jobTask(ctx, n, rec, s.addrFor(remoteAddr(r), localAddr(r)))
	if ctx.Err() != nil {
		return api.Task{}, ctx.Err() // the agent has gone, and asks again
	}
	if err != nil {
		// It was right when the job was made: an admin has changed it since.
		if err := s.jobs.Fail(ctx, c.job, toAPIError(err)); err != nil {
			return api.Task{}, err
		}
		return api.Task{Kind: api.TaskReboot, Node: c.node, Job: c.job}, nil
	}
	return t, nil
}

func disksText(disks []api.Disk) string {
	if len(disks) == 0 {
		return "no disk"
	}
	var out []string
	for _, d := range disks {
		out = append(out, fmt.Sprintf("%s %.1f GB %s", d.Name, float64(d.Size)/1e9, d.Serial))
	}
	return strings.TrimSpace(strings.Join(out, ", "))
}

// statelessEvery is how often the agent of a stateless system asks whether there is something new.
const statelessEvery = time.Minute

// bootTask is the task of a boot that belongs to no job: what the boot was made for, for as long as nobody said
// otherwise.
func (s *Server) bootTask(ctx context.Context, n node.Node, boot node.BootState, master netip.Addr) (api.Task, error) {
	t := api.Task{Node: n.Name, Kind: api.TaskReboot, RetryMS: (5 * time.Second).Milliseconds()}
	if n.BootOnce && n.Boot == boot {
		s.booted(ctx, n)
		n.Boot = node.BootDisk
	}
	over := n.Boot != boot && !(n.BootOnce && n.Boot == node.BootDisk)
	if boot == node.BootStateless {
		t.RetryMS = statelessEvery.Milliseconds()
		if over { // somebody may work with it: it is theirs to reboot
			t.Kind = api.TaskNone
			return t, nil
		}
	}
	if over {
		return t, nil
	}
	switch boot {
	case node.BootShell:
		f, err := s.db.Facts(ctx, n.Name)
		if err != nil {
			return t, err
		}
		t.Kind, t.SSHKeys = api.TaskShell, f.SSHKeys
		return t, s.forgetDeployed(ctx, n.Name)
	case node.BootStateless:
		f, err := s.db.Facts(ctx, n.Name)
		if err != nil {
			return t, err
		}
		t.Kind, t.SSHKeys = api.TaskStateless, f.SSHKeys
		if t.HostKey, err = s.hostKey(n); err != nil {
			return t, err
		}
		if err := s.forgetDeployed(ctx, n.Name); err != nil {
			return t, err
		}
		return t, s.furnish(ctx, &t, n, master)
	case node.BootDiscover:
		if n.Boot != node.BootDisk { // else it was for once, and hello has kept what it reported
			t.Kind, t.RetryMS = api.TaskNone, statelessEvery.Milliseconds()
		}
	}
	return t, nil
}

// forgetDeployed is for a node on which people or postscripts may write to the disk past its filesystems.
func (s *Server) forgetDeployed(ctx context.Context, n node.Name) error {
	if last, err := s.db.Deployed(ctx, n); err != nil || last == nil {
		return err
	}
	return s.db.Update(ctx, func(t *inventory.Tx) error { return t.ForgetDeployed(n) })
}

// maxBootOutput bounds what one event keeps of a postscript's output, in bytes.
const maxBootOutput = 4 << 10

// progress takes an agent's numbers. A boot that belongs to no job has none; what its postscripts say becomes events.
func (s *Server) progress(ctx context.Context, c caller, r *http.Request, p api.Progress) (api.ProgressReply, error) {
	if p.Job != c.job {
		return api.ProgressReply{}, &api.Error{Code: "denied", Message: "this token belongs to another job"}
	}
	if c.job != "" {
		return s.jobs.Progress(ctx, c.job, p)
	}
	for _, o := range p.Outputs[:min(len(p.Outputs), 50)] {
		out := o.Output[max(0, len(o.Output)-maxBootOutput):]
		s.event(ctx, api.Event{Node: c.node, Kind: "postscript", Addr: remoteAddr(r).String(), Text: strings.ToValidUTF8(strings.TrimSpace(fmt.Sprintf("%.64s: exit status %d\n%s", o.Name, o.Exit, out)), "")})
	}
	for _, line := range p.Log[:min(len(p.Log), 50)] {
		s.event(ctx, api.Event{Node: c.node, Kind: "log", Addr: remoteAddr(r).String(), Text: strings.ToValidUTF8(line[:min(len(line), maxBootOutput)], "")})
	}
	return api.ProgressReply{}, nil
}

// trouble takes note of a stateless image that does not come up on a node.
func (s *Server) trouble(ctx context.Context, c caller, r *http.Request, t api.Trouble) (struct{}, error) {
	if c.job != "" && s.jobOf(c.node) != c.job {
		return struct{}{}, nil
	}
	text := "the stateless image does not come up (" + t.Stage + ")"
	if t.Error != nil {
		text += ": " + t.Error.Message
	}
	s.eventTold(ctx, api.Event{Node: c.node, Job: s.jobOf(c.node), Kind: "trouble", Addr: remoteAddr(r).String(), Text: text}, "node.trouble")
	return struct{}{}, nil
}

// keepHardware keeps what a node reports of itself. Where its firmware has no entry for its disk, what the last deploy
// said of the loader there stands.
func (s *Server) keepHardware(ctx context.Context, n node.Name, h api.Hardware) error {
	f, err := s.db.Facts(ctx, n)
	if err != nil {
		return err
	}
	if h.UEFI && (h.Boot == nil || h.Boot.Loader == "") {
		if f.Hardware != nil && f.Hardware.Boot != nil && f.Hardware.Boot.Loader != "" {
			b := api.HardwareBoot{Entries: []api.BootEntry{}}
			if h.Boot != nil {
				b = *h.Boot
			}
			b.Loader = f.Hardware.Boot.Loader
			h.Boot = &b
		}
	}
	if err := s.db.SetHardware(ctx, n, h); err != nil || f.Hardware == nil {
		return err
	}
	if changes := hardwareChanges(*f.Hardware, h); len(changes) > 0 {
		s.eventTold(ctx, api.Event{Node: n, Job: s.jobOf(n), Kind: "hardware", Text: strings.Join(changes, "; ")}, "node.hardware")
	}
	return nil
}

// keepBoot keeps what a node's firmware starts after a deploy.
func (s *Server) keepBoot(ctx context.Context, n node.Name, b *api.HardwareBoot) error {
	f, err := s.db.Facts(ctx, n)
	if err != nil || f.Hardware == nil {
		return err
	}
	f.Hardware.Boot = b
	return s.db.SetHardware(ctx, n, *f.Hardware)
}

// jobTask is the task of a job.
func (s *Server) jobTask(ctx context.Context, n node.Node, r job.Record, master netip.Addr) (api.Task, error) {
	t := api.Task{Kind: r.Kind, Job: r.ID, Node: n.Name, Disk: n.Disk, Image: r.Image, Rev: r.Rev, Compare: !r.Request.Full, Discard: r.Request.Discard}
	if r.Kind == api.TaskDeploy {
		t.Trust = s.apiKeys()
		t.Manifest, t.Force, t.Grow, t.NoNVRAM = r.Manifest.String(), true, r.Request.Grow, n.Knobs.NVRAM == "off"
		if r.Request.Trust {
			last, err := s.db.Deployed(ctx, n.Name)
			if err != nil {
				return t, err
			}
			t.Last = &api.TrustLast{Deploy: last}
		}
	}
	if r.Kind == api.TaskCapture {
		t.LeaveOut, t.KeepAll, t.Shrink = r.Request.LeaveOut, r.Request.KeepAll, r.Request.Shrink
	}
	if r.Kind == api.TaskWipe {
		t.Method, t.AllDisks = orDefault(r.Request.Method, api.WipeAuto), r.Request.AllDisks
	}
	return t, s.furnish(ctx, &t, n, master)
}

// furnish adds to a task what the node and its profile say: host name, attributes, mounts and postscripts.
func (s *Server) furnish(ctx context.Context, t *api.Task, n node.Node, master netip.Addr) (err error) {
	t.Hostname = orDefault(n.Hostname, string(n.Name))
	profile := orDefault(n.Profile, "imaging")
	p, err := stateless.LoadProfile(s.cfg.State, profile)
	if err != nil {
		return err
	}
	if t.Kind == api.TaskCapture {
		t.LeaveOut = slices.Concat(p.LeaveOut, t.LeaveOut)
	}
	t.Attrs = map[string]string{"NODE": string(n.Name), "HOSTNAME": t.Hostname, "MASTER": master.String(), "IMAGE": t.Image, "JOB": t.Job, "TASK": string(t.Kind),
		"ARCH": string(n.Arch), "FIRMWARE": string(n.Firmware), "PROFILE": profile, "NODE_GROUPS": strings.Join(n.Groups, ","), "NFS_PORT": portOfAddr(s.cfg.NFS)}
	if t.Rev > 0 {
		t.Attrs["REV"] = fmt.Sprint(t.Rev)
	}
	if len(n.NICs) > 0 {
		t.Attrs["MAC"] = n.NICs[0].MAC
	}
	for k, v := range n.Labels {
		t.Attrs["LABEL_"+envName(k)] = v
	}
	if s.nfs != nil {
		if t.Mounts, err = p.MountsFor(t.Attrs); err != nil {
			return err
		}
	}
	if t.Kind == api.TaskDeploy {
		t.UUIDs = n.Labels[node.LabelUUIDs]
		if t.Unattend, err = s.unattend(n); err != nil {
			return err
		}
	}
	list, _, err := s.scripts(ctx, n, t.Kind, t.Image, p)
	if err != nil {
		return err
	}
	stages := map[string]*[]api.Postscript{"pre": &t.Pre, "post": &t.Post, "root": &t.Root, "first": &t.First}
	for _, p := range list {
		if p.Error != nil {
			return p.Error
		}
		*stages[p.Stage] = append(*stages[p.Stage], p.run)
	}
	return nil
}

func portOfAddr(a string) string {
	if i := strings.LastIndexByte(a, ':'); i >= 0 {
		return a[i+1:]
	}
	return a
}

// envName makes a label's key the name of an environment variable.
func envName(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 32
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, s)
}

// endOnce puts a node that boots something once back to its disk, unless somebody has said otherwise meanwhile.
func (s *Server) endOnce(ctx context.Context, was node.Node) error {
	s.once.Delete(was.Name)
	return s.db.Update(ctx, func(t *inventory.Tx) error {
		n, err := t.Node(was.Name)
		if err != nil || !n.BootOnce || n.Boot != was.Boot {
			return err
		}
		n.Boot = node.BootDisk
		return t.PutNode(n) // BootOnce stays set until the next change: this boot's agent still finds its shell
	})
}

// storeHandler lets agents with an active job reach the store: a capture reads and writes, a deploy reads. Admins read,
// whatever their role: they may see the files of images anyway. Operators and admins also write what they import; a
// revision comes of it by publishRevision alone.
func (s *Server) storeHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := s.agentAuth(r)
		if err != nil {
			who, ok := s.adminToken(r)
			switch {
			case !ok:
				writeError(w, err)
			case !readsStore(r) && who.Role == "viewer":
				writeError(w, &api.Error{Code: "forbidden", Message: fmt.Sprintf("the token %q is a viewer's, who may only read from the store", who.Name)})
			default:
				s.chunks.ServeHTTP(w, httpstore.From(r, "admin "+who.Name))
			}
			return
		}
		rec, active := s.jobs.OfNode(c.node)
		if c.job == "" || !active || rec.ID != c.job {
			writeError(w, &api.Error{Code: "denied", Message: "this token's job has ended"})
			return
		}
		if rec.Kind == api.TaskWipe {
			writeError(w, &api.Error{Code: "denied", Message: "a wipe has no business in the store"})
			return
		}
		if rec.Kind != api.TaskCapture && !readsStore(r) {
			writeError(w, &api.Error{Code: "denied", Message: fmt.Sprintf("a %s may only read from the store", rec.Kind)})
			return
		}
		s.chunks.ServeHTTP(w, httpstore.From(r, string(c.node)))
	})
}

// readsStore tells whether a request changes nothing in the store.
func readsStore(r *http.Request) bool {
	return r.Method == http.MethodGet || r.Method == http.MethodPost && (strings.HasSuffix(r.URL.Path, "/get") || strings.HasSuffix(r.URL.Path, "/missing"))
}

// writeJSON writes an answer.
func writeJSON(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		writeError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(append(b, '\n'))
}

// writeError writes an error in the API's form, with the status that its code has.
func writeError(w http.ResponseWriter, err error) {
	var e *api.Error
	switch {
	case errors.As(err, &e):
	case errors.Is(err, inventory.ErrNotFound):
		e = &api.Error{Code: "not_found", Message: err.Error()}
	default:
		e = &api.Error{Code: "internal", Message: err.Error()}
	}
	status := map[string]int{"not_found": http.StatusNotFound, "bad_request": http.StatusBadRequest, "conflict": http.StatusConflict, "denied": http.StatusUnauthorized,
		"forbidden": http.StatusForbidden, "busy": http.StatusServiceUnavailable, "no_image": http.StatusConflict, "unfit": http.StatusConflict, "unsigned": http.StatusConflict, "untrusted": http.StatusConflict, "by_hand": http.StatusConflict}[e.Code]
	if status == 0 {
		status = http.StatusInternalServerError
	}
	b, _ := json.Marshal(e)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(b, '\n'))
}
