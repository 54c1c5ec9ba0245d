package redfish

import (
	"context"
	"errors"
	"net/http"

	"mimeo/internal/cluster/api"
	"mimeo/internal/manage/power"
)

type status struct {
	State  string
	Health string
}

// health is in our words; what is absent has none.
func (s status) health() string {
	if s.State == "Absent" || s.State == "Disabled" {
		return ""
	}
	switch s.Health {
	case "OK":
		return "ok"
	case "Warning", "Critical":
		return sane(s.Health)
	}
	return ""
}

// chassis is what is read of one.
type chassis struct {
	Sensors          link
	Thermal          link
	Power            link
	ThermalSubsystem link
}

// Sensors reads the sensors of the system's chassis: the sensor collection where it can be had at one go, else the old
// Thermal and Power resources, else each sensor, else what the thermal subsystem sums up (DSP0268).
func (c *Client) Sensors(ctx context.Context) (out []api.Sensor, err error) {
	err = c.alone(ctx, switchTime, func(ctx context.Context) error {
		s, err := c.system(ctx)
		if err != nil {
			return err
		}
		root, err := c.readRoot(ctx)
		if err != nil {
			return err
		}
		for _, l := range s.Links.Chassis {
			var ch chassis
			if err := c.do(ctx, call{method: http.MethodGet, path: l.ID}, &ch); err != nil {
				return err
			}
			list, err := c.chassisSensors(ctx, ch, root.Features.Expand.NoLinks)
			if err != nil {
				return err
			}
			out = append(out, list...)
		}
		return nil
	})
	return out, err
}

func (c *Client) chassisSensors(ctx context.Context, ch chassis, expand bool) (out []api.Sensor, err error) {
	if ch.Sensors.ID != "" && expand {
		list, err := members[sensor](ctx, c, ch.Sensors.ID+"?$expand=.($levels=1)")
		if err == nil && (len(list) == 0 || list[0].Name != "") {
			return each(list), nil
		}
		if err != nil && !missing(err) && !isRefused(err) {
			return nil, err
		}
	}
	old, err := c.oldSensors(ctx, ch)
	if err != nil || len(old) > 0 {
		return old, err
	}
	if ch.Sensors.ID != "" {
		links, err := members[link](ctx, c, ch.Sensors.ID)
		if err != nil && !missing(err) {
			return nil, err
		}
		var list []sensor
		for _, l := range links {
			var s sensor
			if err := c.do(ctx, call{method: http.MethodGet, path: l.ID}, &s); err != nil {
				if missing(err) {
					continue // it went away meanwhile
				}
				return nil, err
			}
			list = append(list, s)
		}
		if len(list) > 0 {
			return each(list), nil
		}
	}
	return c.thermalSubsystem(ctx, ch)
}

// sensor is a Sensor resource.
type sensor struct {
	Name         string
	Reading      *float64
	ReadingType  string
	ReadingUnits string
	Status       status
}

func each(list []sensor) (out []api.Sensor) {
	for _, s := range list {
		kind := map[string]string{"Temperature": "temperature", "Rotational": "fan", "Voltage": "voltage", "Current": "current", "Power": "power"}[s.ReadingType]
		unit := s.ReadingUnits
		if u, ok := map[string]string{"Cel": "°C", "{rev}/min": "rpm", "RPM": "rpm", "%": "%", "V": "V", "A": "A", "W": "W"}[unit]; ok {
			unit = u
		}
		if kind == "" && unit == "rpm" {
			kind = "fan"
		}
		out = append(out, made(s.Name, kind, clip(unit), s.Reading, s.Status))
	}
	return out
}

// made fills a sensor. One that is absent has no value, whatever is given for it.
func made(name, kind, unit string, value *float64, st status) api.Sensor {
	out := api.Sensor{Name: clip(name), Kind: kind, Health: st.health()}
	if kind == "" {
		out.Kind = "other"
	}
	if value != nil && st.State != "Absent" && st.State != "Disabled" {
		out.Value, out.Unit = value, unit
	}
	return out
}

// oldSensors reads the Thermal and Power resources, which newer BMCs may not have.
func (c *Client) oldSensors(ctx context.Context, ch chassis) (out []api.Sensor, err error) {
	if ch.Thermal.ID != "" {
		var t struct {
			Temperatures []struct {
				Name    string
				Reading *float64 `json:"ReadingCelsius"`
				Status  status
			}
			Fans []struct {
				Name, FanName string // the second is from before 1.1
				Reading       *float64
				ReadingUnits  string
				Status        status
			}
		}
		if err := c.do(ctx, call{method: http.MethodGet, path: ch.Thermal.ID}, &t); err != nil && !missing(err) {
			return nil, err
		}
		for _, s := range t.Temperatures {
			out = append(out, made(s.Name, "temperature", "°C", s.Reading, s.Status))
		}
		for _, s := range t.Fans {
			unit := "rpm"
			if s.ReadingUnits == "Percent" {
				unit = "%"
			}
			if s.Name == "" {
				s.Name = s.FanName
			}
			out = append(out, made(s.Name, "fan", unit, s.Reading, s.Status))
		}
	}
	if ch.Power.ID != "" {
		var p struct {
			Voltages []struct {
				Name    string
				Reading *float64 `json:"ReadingVolts"`
				Status  status
			}
			PowerControl []struct {
				Name    string
				Reading *float64 `json:"PowerConsumedWatts"`
				Status  status
			}
			PowerSupplies []struct {
				Name    string
				Reading *float64 `json:"LastPowerOutputWatts"`
				Status  status
			}
		}
		if err := c.do(ctx, call{method: http.MethodGet, path: ch.Power.ID}, &p); err != nil && !missing(err) {
			return nil, err
		}
		for _, s := range p.Voltages {
			out = append(out, made(s.Name, "voltage", "V", s.Reading, s.Status))
		}
		for _, s := range p.PowerControl {
			out = append(out, made(s.Name, "power", "W", s.Reading, s.Status))
		}
		for _, s := range p.PowerSupplies {
			out = append(out, made(s.Name, "power", "W", s.Reading, s.Status))
		}
	}
	return out, nil
}

// thermalSubsystem reads the metrics of the thermal subsystem.
func (c *Client) thermalSubsystem(ctx context.Context, ch chassis) (out []api.Sensor, err error) {
	if ch.ThermalSubsystem.ID == "" {
		return nil, nil
	}
	var sub struct{ ThermalMetrics, Fans link }
	if err := c.do(ctx, call{method: http.MethodGet, path: ch.ThermalSubsystem.ID}, &sub); err != nil {
		return nil, err
	}
	if sub.ThermalMetrics.ID != "" {
		var m struct {
			Temperatures []struct {
				Name    string `json:"DeviceName"`
				Reading *float64
			} `json:"TemperatureReadingsCelsius"`
		}
		if err := c.do(ctx, call{method: http.MethodGet, path: sub.ThermalMetrics.ID}, &m); err != nil && !missing(err) {
			return nil, err
		}
		for _, s := range m.Temperatures {
			out = append(out, made(s.Name, "temperature", "°C", s.Reading, status{}))
		}
	}
	if sub.Fans.ID == "" {
		return out, nil
	}
	links, err := members[link](ctx, c, sub.Fans.ID)
	if err != nil && !missing(err) {
		return nil, err
	}
	for _, l := range links {
		var f struct {
			Name  string
			Speed struct {
				Percent *float64 `json:"Reading"`
				RPM     *float64 `json:"SpeedRPM"`
			} `json:"SpeedPercent"`
			Status status
		}
		if err := c.do(ctx, call{method: http.MethodGet, path: l.ID}, &f); err != nil && !missing(err) {
			return nil, err
		}
		if f.Speed.RPM != nil {
			out = append(out, made(f.Name, "fan", "rpm", f.Speed.RPM, f.Status))
		} else if f.Name != "" {
			out = append(out, made(f.Name, "fan", "%", f.Speed.Percent, f.Status))
		}
	}
	return out, nil
}

func isRefused(err error) bool { return errors.Is(err, power.ErrRefused) }
