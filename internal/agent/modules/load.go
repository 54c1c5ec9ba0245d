package modules

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"
)

// Loader loads modules of an Index, each once. Its methods may be called from several goroutines.
type Loader struct {
	*Index
	Skip func(file string) bool // leaves out modules by their file, as kernel/drivers/gpu/drm/ast/ast.ko; nil means none
	Log  func(format string, args ...any)

	mu   sync.Mutex
	done map[string]*load
	seen map[string]bool // modaliases that were looked at
}

type load struct {
	ready chan struct{}
	err   error
}

// maxModule bounds a module's file, packed and unpacked: the largest of a stock kernel have some 20 MiB.
const maxModule = 256 << 20

// Load loads name, which is a module's name or an alias of one, with all that it needs. One that is built in or loaded
// already is no error; one that is not known is fs.ErrNotExist.
func (l *Loader) Load(name string) error {
	names := []string{Normal(name)}
	if l.Builtin(name) {
		return nil
	}
	if l.Path(name) == "" {
		if names = l.Match(name); len(names) == 0 {
			return fmt.Errorf("kernel module %s: %w", name, fs.ErrNotExist)
		}
	}
	var errs []error
	for _, n := range names {
		errs = append(errs, l.loadAll(n))
	}
	return errors.Join(errs...)
}

func (l *Loader) loadAll(name string) error {
	var last error
	for _, m := range l.Order(name) {
		if err := l.one(m); err != nil && m == name {
			last = err
		}
	}
	return last
}

// one loads one module, or waits until the goroutine that does so is done.
func (l *Loader) one(m string) error {
	l.mu.Lock()
	if l.done == nil {
		l.done = map[string]*load{}
	}
	if d := l.done[m]; d != nil {
		l.mu.Unlock()
		<-d.ready
		return d.err
	}
	d := &load{ready: make(chan struct{})}
	l.done[m] = d
	l.mu.Unlock()
	defer close(d.ready)
	start := time.Now()
	if d.err = l.insert(m); d.err != nil {
		d.err = fmt.Errorf("load kernel module %s: %w", m, d.err)
		l.log("%v", d.err)
	} else if took := time.Since(start); took > 2*time.Second {
		l.log("kernel module %s took %v to load", m, took.Round(100*time.Millisecond))
	}
	return d.err
}

func (l *Loader) log(format string, args ...any) {
	if l.Log != nil {
		l.Log(format, args...)
	}
}

// insert hands one file to the kernel.
func (l *Loader) insert(m string) error {
	if _, err := os.Stat("/sys/module/" + m + "/initstate"); err == nil {
		return nil
	}
	file := l.paths[m]
	if !filepath.IsAbs(file) {
		file = filepath.Join(l.dir, file)
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	options := strings.Join(l.options[m], " ")
	if strings.HasSuffix(file, ".ko") {
		err = unix.FinitModule(int(f.Fd()), options, 0)
	} else {
		var image []byte
		if image, err = unpack(file, f); err != nil {
			return fmt.Errorf("unpack %s: %w", file, err)
		}
		err = unix.InitModule(image, options)
	}
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// unpack reads a compressed module.
func unpack(name string, r io.Reader) ([]byte, error) {
	var in io.Reader
	var err error
	switch filepath.Ext(name) {
	case ".xz":
		in, err = xz.NewReader(r)
	case ".zst":
		var z *zstd.Decoder
		if z, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1)); err == nil {
			defer z.Close()
			in = z
		}
	case ".gz":
		in, err = gzip.NewReader(r)
	default:
		err = errors.New("compressed in an unknown way")
	}
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	n, err := io.Copy(&out, io.LimitReader(in, maxModule+1))
	if err == nil && n > maxModule {
		err = fmt.Errorf("more than %d bytes", maxModule)
	}
	return out.Bytes(), err
}

// parallel is how many modules are loaded at once: some drivers sit and wait for their hardware for seconds, and the
// kernel takes no harm from more than one at it.
const parallel = 4

// Coldplug loads what the devices below sys (/sys) ask for, until there is no device left that was not looked at. It
// returns the number of modules that it loaded. One that fails is logged and passed over: the machine may do without.
func (l *Loader) Coldplug(ctx context.Context, sys string) int {
	total := 0
	for ctx.Err() == nil {
		todo := l.wanted(devices(sys))
		if len(todo) == 0 {
			break
		}
		total += len(todo)
		l.loadMany(todo)
	}
	return total
}

// Plug loads what one device asks for.
func (l *Loader) Plug(modalias string) { l.loadMany(l.wanted([]string{modalias})) }

// wanted returns the modules for those of aliases that were not looked at before.
func (l *Loader) wanted(aliases []string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen == nil {
		l.seen = map[string]bool{}
	}
	var out []string
	for _, a := range aliases {
		if l.seen[a] {
			continue
		}
		l.seen[a] = true
		for _, m := range l.Match(a) {
			if l.done[m] == nil && (l.Skip == nil || !l.Skip(l.paths[m])) {
				out = append(out, m)
			}
		}
	}
	return out
}

func (l *Loader) loadMany(names []string) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, parallel)
	for _, n := range names {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			l.loadAll(n) // logged where it failed
		})
	}
	wg.Wait()
}

// devices returns the modaliases of all devices, each once. Every device that a driver can be bound to is on a bus, and
// the lists of the buses are a small part of sysfs. Processors are left out: they ask for faster ciphers and for tools of
// power saving, which no disk or network card needs.
func devices(sys string) []string {
	var out []string
	seen := map[string]bool{}
	buses, _ := filepath.Glob(filepath.Join(sys, "bus/*/devices")) // the pattern is well formed
	for _, bus := range buses {
		if filepath.Base(filepath.Dir(bus)) == "cpu" {
			continue
		}
		list, err := os.ReadDir(bus)
		if err != nil {
			continue // gone with its driver
		}
		for _, d := range list {
			b, err := os.ReadFile(filepath.Join(bus, d.Name(), "modalias"))
			if a := strings.TrimSpace(string(b)); err == nil && a != "" && !seen[a] {
				seen[a] = true
				out = append(out, a)
			}
		}
	}
	return out
}
