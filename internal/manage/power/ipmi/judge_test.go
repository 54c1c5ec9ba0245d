package ipmi

import (
	"context"
	"net"
	"strconv"
	"sync"
	"testing"

	"github.com/bougou/go-ipmi/pkg/bmc"
	"github.com/bougou/go-ipmi/pkg/hal"
	"github.com/bougou/go-ipmi/pkg/server"
	"github.com/bougou/go-ipmi/pkg/types"

	"mimeo/internal/manage/power"
	"mimeo/internal/manage/power/powertest"
)

// TestForeignBMC holds the client against a BMC in software that is not ours, with both cipher suites. OpenIPMI's, in
// the tests of package open, knows suite 3 only.
func TestForeignBMC(t *testing.T) {
	for _, suite := range []int{3, 17} {
		t.Run("suite "+strconv.Itoa(suite), func(t *testing.T) {
			t.Parallel()
			m := powertest.NewMachine()
			core := bmc.New(bmc.DeviceInfo{DeviceID: 0x20, IPMIVersion: 0x20}, [16]byte{1}, foreign{m: m}, bmc.WithV15Disabled(),
				bmc.WithCipherSuites([]types.CipherSuiteID{types.CipherSuiteID(suite)}))
			u, err := core.Users.Add(2, "ops")
			if err != nil {
				t.Fatal(err)
			}
			u.SetPassword([]byte("a password of twenty"))
			u.Enabled = true
			u.ChannelAccess[1] = bmc.UserChannelAccess{MaxPrivilege: bmc.PrivilegeLevelOperator, Enabled: true}
			pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			srv := server.NewServer(core, pc)
			ctx, cancel := context.WithCancel(context.Background())
			var served sync.WaitGroup
			served.Go(func() { srv.Serve(ctx) })
			t.Cleanup(func() {
				cancel()
				srv.Close()
				served.Wait()
			})
			o := quick(pc.LocalAddr().String())
			o.Password = "a password of twenty"
			powertest.Run(t, m, func(t *testing.T) power.Controller { return open(t, o) })
			if n := core.Sessions.Count(); n != 0 {
				t.Errorf("%d sessions are left behind", n)
			}
			o.Password = "another"
			_, err = open(t, o).Status(ctx)
			wantError(t, err, power.ErrDenied, `refused user "ops"`)
		})
	}
}

// foreign is the machine as that BMC wants it.
type foreign struct {
	m *powertest.Machine
	hal.HAL
	hal.ChassisHAL
}

func (f foreign) Chassis() hal.ChassisHAL { return f }
func (foreign) Storage() hal.StorageHAL   { return nil }
func (foreign) Console() hal.ConsoleHAL   { return nil }

func (f foreign) PowerState(context.Context) (bool, error) { return f.m.Power(), nil }
func (f foreign) SetPower(_ context.Context, on bool) error {
	if on {
		return f.m.PowerOn()
	}
	return f.m.PowerOff()
}
func (f foreign) ColdReset(context.Context) error            { return f.m.Reset() }
func (f foreign) WarmReset(context.Context) error            { return f.m.SoftOff() } // what it makes of "soft shutdown"
func (foreign) IntrusionState(context.Context) (bool, error) { return false, hal.ErrNotSupported }
func (f foreign) SetBootFlags(_ context.Context, b *types.BootOptionParam_BootFlags) error {
	device := map[types.BootDeviceSelector]string{types.BootDeviceSelectorForcePXE: "pxe", types.BootDeviceSelectorForceHardDrive: "disk"}[b.BootDeviceSelector]
	return f.m.SetNextBoot(device, !b.Persist, bool(b.BIOSBootType))
}
func (foreign) GetBootFlags(context.Context) (*types.BootOptionParam_BootFlags, error) {
	return nil, hal.ErrNotSupported
}
func (foreign) SetBootInfoAcknowledge(context.Context, *types.BootOptionParam_BootInfoAcknowledge) error {
	return nil
}
