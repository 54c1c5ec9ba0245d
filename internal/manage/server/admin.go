package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/cluster/noderange"
	"mimeo/internal/imaging/store/httpstore"
	"mimeo/internal/manage/inventory"
)

// maxAdminBody bounds a message of an admin: four hundred nodes in one.
const maxAdminBody = 4 << 20

// apiHandler is the whole API. docs/formats/api.md describes it.
func (s *Server) apiHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+api.PathHello, agentCall(s, s.hello))
	mux.HandleFunc("POST "+api.PathProgress, agentCall(s, s.progress))
	mux.HandleFunc("POST "+api.PathDone, agentCall(s, func(ctx context.Context, c caller, _ *http.Request, d api.Done) (api.DoneReply, error) {
		if d.Job != c.job {
			return api.DoneReply{}, &api.Error{Code: "denied", Message: "this token belongs to another job"}
		}
		if c.job == "" {
			return api.DoneReply{Action: "reboot"}, nil
		}
		if d.Boot != nil && s.jobOf(c.node) == c.job {
			if err := s.keepBoot(ctx, c.node, d.Boot); err != nil {
				return api.DoneReply{}, err
			}
		}
		return s.jobs.Done(ctx, c.job, d)
	}))
	mux.HandleFunc("POST "+api.PathTrouble, agentCall(s, s.trouble))
	mux.Handle(httpstore.Prefix, s.storeHandler())

	admin := http.NewServeMux()
	route := func(pattern string, f func(*http.Request) (any, error)) {
		admin.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxAdminBody)
			out, err := f(r)
			if err != nil {
				writeError(w, err)
				return
			}
			writeJSON(w, out)
		})
	}
	route("GET /v1/status", s.status)
	route("GET /v1/dhcp", s.dhcpStatus)
	route("GET /v1/dhcp/snippet", s.dhcpSnippet)
	route("GET /v1/nodes", s.listNodes)
	route("POST /v1/nodes", s.addNodes)
	route("PATCH /v1/nodes", s.setNodes)
	route("POST /v1/nodes/plan", s.planNodes)
	route("DELETE /v1/nodes", s.removeNodes)
	route("GET /v1/nodes/{name}/events", s.nodeEvents)
	route("GET /v1/nodes/{name}/boot", s.explainBoot)
	route("GET /v1/nodes/{name}/attributes", s.nodeAttributes)
	route("GET /v1/nodes/{name}/postscripts", s.explainScripts)
	admin.HandleFunc("GET /v1/nodes/{name}/console", s.attachConsole)
	admin.HandleFunc("POST /v1/nodes/{name}/console", s.attachConsole)
	admin.HandleFunc("GET /v1/nodes/{name}/console/log", s.consoleLog)
	route("GET /v1/discovered", s.listDiscovered)
	route("POST /v1/discovered", s.acceptDiscovered)
	route("DELETE /v1/discovered/{id}", s.forgetDiscovered)
	route("GET /v1/keys", s.listKeys)
	route("GET /v1/certificates", s.listCertificates)
	route("GET /v1/jobs/{id}/certificate", s.jobCertificate)
	route("GET /v1/groups", s.listGroups)
	route("POST /v1/groups", s.changeGroups)
	route("DELETE /v1/groups/{name}", s.removeGroup)
	route("GET /v1/inventory", s.exportInventory)
	route("POST /v1/inventory", s.importInventory)
	route("POST /v1/boot", s.setBoot)
	admin.HandleFunc("POST /v1/power", s.switchPower)
	route("POST /v1/jobs", s.newJobs)
	route("GET /v1/jobs", s.listJobs)
	route("POST /v1/jobs/preflight", s.preflight)
	route("POST /v1/jobs/retry", s.retryJobs)
	route("GET /v1/jobs/{id}", func(r *http.Request) (any, error) {
		rec, err := s.jobs.Get(r.Context(), r.PathValue("id"))
		return rec.Job, err
	})
	route("GET /v1/jobs/{id}/events", s.jobEvents)
	admin.HandleFunc("GET /v1/jobs/{id}/watch", s.watchJob)
	route("POST /v1/jobs/{id}/cancel", func(r *http.Request) (any, error) { return s.jobs.Cancel(r.Context(), r.PathValue("id")) })
	route("POST /v1/jobs/{id}/retry", s.retryJob)
	admin.HandleFunc("GET /v1/watch", s.watchJobs)
	route("GET /v1/batches/{id}", s.showBatch)
	route("POST /v1/batches/{id}/cancel", s.cancelBatch)
	route("GET /v1/schedules", s.listSchedules)
	route("POST /v1/schedules", s.addSchedule)
	route("GET /v1/schedules/{id}", s.showSchedule)
	route("DELETE /v1/schedules/{id}", s.removeSchedule)
	route("POST /v1/schedules/{id}/run", s.runScheduleNow)
	route("POST /v1/schedules/{id}/pause", s.pauseSchedule)
	route("GET /v1/images", s.listImages)
	route("GET /v1/images/{name}", s.showImage)
	route("PATCH /v1/images/{name}", s.setImage)
	route("POST /v1/images/{name}/revisions", s.publishRevision)
	route("GET /v1/images/{name}/{rev}", s.showRevision)
	route("DELETE /v1/images/{name}/{rev}", s.removeRevision)
	route("GET /v1/images/{name}/retention", s.showRetention)
	route("POST /v1/images/{name}/retention", s.showRetention)
	route("PUT /v1/images/{name}/retention", s.setRetention)
	route("PUT /v1/images/{name}/{rev}/pin", s.pinRevision)
	route("DELETE /v1/images/{name}/{rev}/pin", s.pinRevision)
	route("PUT /v1/images/{name}/{rev}/signature", s.signRevision)
	admin.HandleFunc("POST /v1/images/{name}/{rev}/verify", s.verifyRevision)
	admin.HandleFunc("POST /v1/images/{name}/{rev}/boot-test", s.bootTest)
	admin.HandleFunc("GET /v1/images/{name}/{rev}/boot-test/screen", s.bootTestScreen)
	admin.HandleFunc("GET /v1/images/{name}/{rev}/files", s.imageFiles)
	admin.HandleFunc("GET /v1/images/{name}/{rev}/content", s.imageContent)
	admin.HandleFunc("GET /v1/images/{name}/{rev}/diff", s.imageDiff)
	admin.HandleFunc("POST /v1/maintenance/check", s.maintain(s.checkStore))
	admin.HandleFunc("GET /v1/maintenance/garbage", s.maintain(s.collectGarbage))
	admin.HandleFunc("DELETE /v1/maintenance/garbage", s.maintain(s.collectGarbage))
	admin.HandleFunc("GET /v1/maintenance/repair", s.maintain(s.repairStore))
	admin.HandleFunc("PUT /v1/maintenance/repair", s.maintain(s.repairStore))
	admin.HandleFunc("GET /v1/maintenance/repack", s.maintain(s.repackStore))
	admin.HandleFunc("POST /v1/maintenance/repack", s.maintain(s.repackStore))
	admin.HandleFunc("GET /v1/maintenance/copy", s.maintain(s.copyOnDemand))
	admin.HandleFunc("POST /v1/maintenance/copy", s.maintain(s.copyOnDemand))
	route("GET /v1/maintenance/usage", s.storeUsage)
	route("GET /v1/postscripts", s.listReady)
	route("GET /v1/postscripts/{name}", s.showReady)
	route("GET /v1/stateless", s.listStateless)
	route("GET /v1/stateless/{profile}", s.showStateless)
	admin.HandleFunc("POST /v1/stateless", s.buildStateless)
	admin.HandleFunc("PUT /v1/backup", s.makeBackup)
	admin.Handle("GET /v1/metrics", s.counts.Handler())
	route("DELETE /v1/stateless/{profile}", s.removeStateless)
	admin.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, &api.Error{Code: "not_found", Message: "no such path: " + r.Method + " " + r.URL.Path, Hint: "docs/formats/api.md lists them"})
	})
	mux.Handle("/", s.adminOnly(admin))
	return mux
}

// userinfo of a URL may hold a password; it is refused, after it was written down.
var userinfo = regexp.MustCompile(`://[^/\s]*@`)

// blanked is a request as the audit log keeps it: without the values of keys that name a password. What is no JSON may
// hold one anywhere, and is not kept.
func blanked(body []byte) string {
	if len(body) == 0 {
		return ""
	}
	var v any
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return fmt.Sprintf("(%d bytes that are no JSON)", len(body))
	}
	var blank func(any) any
	blank = func(v any) any {
		switch v := v.(type) {
		case map[string]any:
			for k, e := range v {
				if v[k] = blank(e); strings.Contains(strings.ToLower(k), "password") {
					v[k] = "***"
				}
			}
		case []any:
			for i, e := range v {
				v[i] = blank(e)
			}
		case string:
			return userinfo.ReplaceAllString(v, "://***@")
		}
		return v
	}
	b, err := json.Marshal(blank(v))
	if err != nil {
		return fmt.Sprintf("(%d bytes)", len(body))
	}
	return string(b)
}

// whoKey is the key of the name of a request's token, in its context.
type whoKey struct{}

// adminToken returns whose admin's token a request carries.
func (s *Server) adminToken(r *http.Request) (inventory.Token, bool) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return inventory.Token{}, false
	}
	who, err := s.db.Token(r.Context(), token)
	return who, err == nil
}

// adminOnly lets in who has an admin's token, by role, and writes each change down.
func (s *Server) adminOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, ok := s.adminToken(r)
		if !ok {
			writeError(w, &api.Error{Code: "denied", Message: "a good token is needed", Hint: `sign in with "mimeo login"; the admin's token was printed at the first start of mimeod`})
			return
		}
		r = r.WithContext(context.WithValue(r.Context(), whoKey{}, who.Name))
		if r.Method == http.MethodGet {
			next.ServeHTTP(w, r)
			return
		}
		got := s.hurry(w)
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxAdminBody))
		got(err)
		if err != nil {
			writeError(w, &api.Error{Code: "bad_request", Message: "read the request: " + err.Error()})
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if r.Method == http.MethodPost && r.URL.Path == "/v1/power" && onlyLooks(body) {
			next.ServeHTTP(w, r)
			return
		}
		if who.Role == "viewer" || who.Role == "operator" && (r.Method == http.MethodDelete || r.Method == http.MethodPut) {
			writeError(w, &api.Error{Code: "forbidden", Message: fmt.Sprintf("the token %q is a %s's, who may not do this", who.Name, who.Role)})
			return
		}
		if err := s.db.Audit(r.Context(), who.Name, remoteAddr(r).String(), r.Method+" "+r.URL.RequestURI(), blanked(body)); err != nil {
			writeError(w, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// hurry gives the client bodyLimit for the rest of its request. The function that it returns takes the limit off again
// where that came, as what follows may be a long stream. Where it did not, the limit stays: net/http reads what is left
// of a request before it answers.
func (s *Server) hurry(w http.ResponseWriter) (got func(error)) {
	c := http.NewResponseController(w)
	c.SetReadDeadline(time.Now().Add(s.bodyLimit))
	return func(err error) {
		if err == nil {
			c.SetReadDeadline(time.Time{})
		}
	}
}

// read decodes a request strictly: a misspelt field is better refused than passed over.
func read[T any](r *http.Request) (v T, err error) { return decode[T](r.Body) }

func decode[T any](body io.Reader) (v T, err error) {
	d := json.NewDecoder(body)
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return v, &api.Error{Code: "bad_request", Message: "read the request: " + err.Error()}
	}
	if d.More() {
		return v, &api.Error{Code: "bad_request", Message: "read the request: there is more after its end"}
	}
	return v, nil
}

func (s *Server) status(r *http.Request) (any, error) {
	ctx := r.Context()
	nodes, err := s.db.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	out := api.ServerStatus{Version: s.version, Started: s.started, StateDir: s.cfg.State, Nodes: len(nodes), ActiveJobs: len(s.jobs.Active())}
	if st, err := s.store.Stats(ctx); err == nil {
		out.StoreBytes = st.PackBytes
	}
	out.FreeBytes = s.storeFree()
	out.Copy = s.copyState()
	for _, f := range s.ifaces {
		out.Interfaces = append(out.Interfaces, api.InterfaceStatus{Name: f.Name, Addr: f.prefix.String(), DHCP: f.DHCP, Networks: s.dhcpNetworks(f, nodes)})
	}
	return out, nil
}

// storeFree is how many bytes are free on the store's filesystem; 0 where that cannot be told.
func (s *Server) storeFree() int64 {
	var fs syscall.Statfs_t
	if syscall.Statfs(strings.TrimPrefix(s.cfg.Store, "dir:"), &fs) != nil {
		return 0
	}
	return int64(fs.Bavail) * fs.Bsize
}

// expand reads a noderange against the inventory; an empty one means all nodes where that is allowed.
func (s *Server) expand(ctx context.Context, expr string, emptyIsAll bool) ([]node.Node, error) {
	l, err := s.lookup(ctx)
	if err != nil {
		return nil, err
	}
	names := l.names
	if expr != "" || !emptyIsAll {
		if names, err = noderange.Expand(expr, l); err != nil {
			var where *noderange.Error
			if errors.As(err, &where) && !where.Unknown {
				return nil, &api.Error{Code: "bad_request", Message: err.Error(), Hint: `"mimeo help ranges" says how to name several nodes`}
			}
			return nil, &api.Error{Code: "not_found", Message: err.Error(), Hint: `"mimeo node list" shows all nodes, "mimeo group list" all groups`}
		}
	}
	out := []node.Node{}
	for _, n := range names {
		out = append(out, l.nodes[n])
	}
	return out, nil
}

// sse starts a stream of server-sent events and returns how to send one.
func sse(w http.ResponseWriter) func(v any) error {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	flush := http.NewResponseController(w)
	return func(v any) error {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "data: %s\n\n", b); err != nil {
			return err
		}
		return flush.Flush()
	}
}

// keepAlive is how often a quiet stream sends something, so that a dead connection shows.
const keepAlive = 10 * time.Second
