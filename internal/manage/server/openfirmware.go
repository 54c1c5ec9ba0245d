package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"mimeo/internal/boot/netboot"
	"mimeo/internal/boot/tftp"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/stateless"
)

// openFirmwareFile is the name, in TFTP, of what a node with Open Firmware boots; its card's address follows.
const openFirmwareFile = "boot/" + string(netboot.KindOpenFirmware) + "/"

// noScriptWait is how long a node waits that got no script before it asks again.
const noScriptWait = 30 * time.Second

// openFirmware gives a node with Open Firmware all that it boots as one file, made for it: a program in Forth that goes
// on to the disk, or the stateless image with its command line. As with scripts, only the address that the node's own
// network card has gets it.
func (s *Server) openFirmware(ctx context.Context, r tftp.Request) (tftp.File, error) {
	mac, err := netboot.ParseMAC(strings.TrimPrefix(r.Name, openFirmwareFile))
	if err != nil {
		return nil, errors.Join(err, fs.ErrNotExist)
	}
	n, known, err := s.db.NodeByMAC(ctx, mac)
	if err != nil {
		return nil, err
	}
	remote := r.Remote.Addr().Unmap()
	addr := s.addrFor(remote, r.Local)
	ask := netboot.Ask{Firmware: node.OpenFirmware, Arch: node.PPC64EL, MAC: mac, Base: s.bootBase(addr)}
	switch {
	case !known && s.found.has(mac) && s.onDiscovery(remote) && s.mayHave(ctx, n, mac, remote):
		s.log.Info("an unknown machine boots to report itself", "mac", mac, "addr", remote)
		sc, im, err := s.unknownPlan(netboot.KindOpenFirmware, ask, addr)
		if err != nil {
			return nil, err
		}
		return s.openFirmwareBoot(sc, im)
	case !known || !s.mayHave(ctx, n, mac, remote):
		s.log.Info("boot script refused", "mac", mac, "addr", remote, "known", known)
		return nil, fs.ErrNotExist
	}
	sc, im, event, err := s.bootPlan(ctx, n, netboot.KindOpenFirmware, ask, addr, true)
	var f tftp.File
	if err == nil {
		f, err = s.openFirmwareBoot(sc, im)
	}
	if err != nil {
		s.noScript(ctx, n, remote, err)
		// It asks again after a while, as other nodes do that get no script.
		return s.openFirmwareBoot(netboot.Script{Kind: netboot.KindOpenFirmware, Decision: netboot.Wait, Node: n.Name, Why: err.Error(), After: noScriptWait}, im)
	}
	s.scriptSent(ctx, n, remote, event)
	return f, nil
}

// openFirmwareBoot is the file for a decision.
func (s *Server) openFirmwareBoot(sc netboot.Script, im stateless.Stateless) (_ tftp.File, err error) {
	if sc.Decision != netboot.Stateless {
		var b strings.Builder
		err := netboot.Render(&b, sc)
		return tftp.Bytes([]byte(b.String())), err
	}
	p := powerImage{}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	for i, name := range []string{stateless.FileKernel, stateless.FileInitrd} {
		if p.files[i], err = os.Open(im.Path(name)); err != nil {
			return nil, err
		}
		sum, err := s.files.sum(p.files[i])
		if err != nil {
			return nil, err
		}
		if sum != im.Files[name].SHA256 {
			return nil, damaged(name, im, sum)
		}
	}
	p.Image, err = netboot.PowerImage(sc, p.files[0], p.files[1], im.Files[stateless.FileInitrd].Size)
	return p, err
}

// damaged says that a file of a stateless image is not what its build recorded.
func damaged(name string, im stateless.Stateless, sum string) error {
	return fmt.Errorf("%s of build %.12s is damaged: its SHA-256 is %s, not %s; build the image again", name, im.Build, sum, im.Files[name].SHA256)
}

// powerImage is a boot image and the files that it is made of.
type powerImage struct {
	*netboot.Image
	files [2]*os.File
}

func (p powerImage) Close() error {
	var errs []error
	for _, f := range p.files {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}
