package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/client"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/config"
	"mimeo/internal/manage/inventory"
	"mimeo/internal/manage/stateless"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a server on loopback addresses. Its nodes are n1 at 127.0.0.11 and n2 at 127.0.0.12, without BMCs.
type rig struct {
	*Server
	t     *testing.T
	admin *client.Client
	token string
	out   *bytes.Buffer
	stop  func() error
}

const build = "0123456789abcdef0123456789abcdef"

// start starts a server; the tests run side by side, as each waits a second for the end of its own.
func start(t *testing.T) *rig {
	t.Helper()
	t.Parallel()
	r := startIn(t, t.TempDir())
	r.image()
	r.must("POST", "/v1/nodes", api.NodeAdd{Range: "n[1-2]", Set: map[string]string{"arch": "amd64", "firmware": "bios", "groups": "rack1"},
		PerNode: map[node.Name]map[string]string{"n1": {"mac": "52:54:00:00:00:01", "ip": "127.0.0.11"}, "n2": {"mac": "52:54:00:00:00:02", "ip": "127.0.0.12"}}}, nil)
	return r
}

func startIn(t *testing.T, state string, web ...config.Web) *rig {
	t.Helper()
	return startWith(t, config.Config{State: state, Hooks: config.Hooks{Web: web}})
}

// startWith starts a server with a configuration, on free ports.
func startWith(t *testing.T, cfg config.Config) *rig {
	t.Helper()
	r := &rig{t: t, out: &bytes.Buffer{}}
	cfg.HTTP, cfg.HTTPS = "127.0.0.1:0", "127.0.0.1:0"
	if err := cfg.Complete(); err != nil {
		t.Fatal(err)
	}
	var err error
	if r.Server, err = New(t.Context(), cfg, "test", slog.New(slog.DiscardHandler), r.out); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Serve(ctx) }()
	stopped := false
	r.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-done
	}
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
	r.signIn()
	return r
}

// signIn finds the server as the command line of root does.
func (r *rig) signIn() {
	r.t.Helper()
	b, err := os.ReadFile(filepath.Join(r.cfg.State, "admin.json"))
	var a client.Access
	if err != nil || json.Unmarshal(b, &a) != nil {
		r.t.Fatal("admin.json: ", err)
	}
	r.admin, r.token = client.New(a), a.Token
}

// image puts a stateless image into the state folder, as a build would.
func (r *rig) image() { r.imageOf("imaging", build, "") }

// imageOf does so for a profile, with an init of its own or none.
func (r *rig) imageOf(profile, build, init string) {
	dir := filepath.Join(r.cfg.State, "stateless", profile, "amd64")
	im := stateless.Stateless{Version: stateless.RecordVersion, Profile: profile, Init: init, Arch: node.AMD64, Build: build, Created: time.Now(), Kernel: "6.1", Files: map[string]api.StatelessFile{}}
	if err := os.MkdirAll(filepath.Join(dir, build), 0o755); err != nil {
		r.t.Fatal(err)
	}
	for _, name := range stateless.Files {
		text := []byte("this is " + name)
		sum := sha256.Sum256(text)
		im.Files[name] = api.StatelessFile{Size: int64(len(text)), SHA256: hex.EncodeToString(sum[:])}
		os.WriteFile(filepath.Join(dir, build, name), text, 0o644)
	}
	b, _ := json.Marshal(im)
	if err := os.WriteFile(filepath.Join(dir, build, "record.json"), b, 0o644); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Symlink(build, filepath.Join(dir, "current")); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) must(method, path string, in, out any) {
	r.t.Helper()
	if err := r.admin.Do(r.t.Context(), method, path, in, out); err != nil {
		r.t.Fatalf("%s %s: %v", method, path, err)
	}
}

// fails expects an *api.Error with a code and text in it, and returns it.
func (r *rig) fails(method, path string, in any, code, text string) *api.Error {
	r.t.Helper()
	err := r.admin.Do(r.t.Context(), method, path, in, nil)
	e, ok := err.(*api.Error)
	if !ok || e.Code != code || !strings.Contains(e.Message, text) {
		r.t.Fatalf("%s %s: got %v (%+v), want %s with %q", method, path, err, e, code, text)
	}
	return e
}

// from is a client at an address, as a node is.
func (r *rig) from(addr string) *http.Client {
	tr := &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(addr)}}).DialContext,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
			c, err := x509.ParseCertificate(raw[0])
			if err != nil {
				return err
			}
			return client.CheckPin(r.pin, []*x509.Certificate{c})
		}}}
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}
}

// get fetches from the boot server.
func (r *rig) get(from, path string) (int, string) {
	r.t.Helper()
	return r.getAt(r.http.Addr().String(), from, path)
}

func (r *rig) getAt(server, from, path string) (int, string) {
	r.t.Helper()
	resp, err := r.from(from).Get("http://" + server + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func script(n int) string {
	return fmt.Sprintf("/boot/ipxe/52-54-00-00-00-0%d?firmware=bios&arch=amd64", n)
}

var tokenIn = regexp.MustCompile(api.ParamToken + `=(\S+)`)

// boot is a node that fetches its script; it returns the token in it.
func (r *rig) boot(n int) string {
	r.t.Helper()
	code, text := r.get(fmt.Sprintf("127.0.0.1%d", n), script(n))
	m := tokenIn.FindStringSubmatch(text)
	if code != 200 || m == nil {
		r.t.Fatalf("script of n%d: %d %s", n, code, text)
	}
	return m[1]
}

// call sends a message to the API with a token; an answer that is no JSON is an error.
func (r *rig) call(token, method, path string, in, out any) (int, *api.Error) {
	r.t.Helper()
	var body io.Reader
	if b, ok := in.([]byte); ok {
		body = bytes.NewReader(b)
	} else if in != nil {
		b, _ := json.Marshal(in)
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(r.t.Context(), method, "https://"+r.https.Addr().String()+path, body)
	if err != nil {
		r.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := r.from("127.0.0.1").Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	if resp.StatusCode/100 != 2 {
		e := &api.Error{}
		if err := json.Unmarshal(b, e); err != nil {
			r.t.Fatalf("%s %s: %d %q", method, path, resp.StatusCode, b)
		}
		return resp.StatusCode, e
	}
	if out != nil {
		if err := json.Unmarshal(b, out); err != nil {
			r.t.Fatalf("%s %s: %v in %q", method, path, err, b)
		}
	}
	return resp.StatusCode, nil
}

func (r *rig) hello(token, bootID string) (t api.Task) {
	r.t.Helper()
	if _, e := r.call(token, "POST", api.PathHello, api.Hello{Version: api.AgentVersion, Agent: "test", BootID: bootID, Hardware: api.Hardware{Arch: "amd64", Product: "box"}}, &t); e != nil {
		r.t.Fatal(e)
	}
	return t
}

func (r *rig) capture(node string) string {
	r.t.Helper()
	var jobs []api.Job
	r.must("POST", "/v1/jobs", api.JobNew{Key: fmt.Sprint(time.Now().UnixNano()), Kind: api.TaskCapture, Range: node, Image: "web", Shrink: true}, &jobs)
	return jobs[0].ID
}

func (r *rig) job(id string) (j api.Job) {
	r.t.Helper()
	r.must("GET", "/v1/jobs/"+id, nil, &j)
	return j
}

func (r *rig) node(name string) api.NodeStatus {
	r.t.Helper()
	var l []api.NodeStatus
	r.must("GET", "/v1/nodes?range="+url.QueryEscape(name), nil, &l)
	return l[0]
}

// until waits for something that the server does by itself.
func (r *rig) until(what string, f func() bool) {
	r.t.Helper()
	for end := time.Now().Add(10 * time.Second); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatal("waited in vain: ", what)
		}
	}
}

func (r *rig) viewer(role string) string {
	r.t.Helper()
	token := "token-of-a-" + role
	if err := r.db.PutToken(r.t.Context(), token, inventory.Token{Name: "some " + role, Role: role}); err != nil {
		r.t.Fatal(err)
	}
	return token
}
