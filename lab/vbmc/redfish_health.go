package vbmc

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// burn switches the identify light.
func (b *BMC) burn(on bool) {
	led := byte(0)
	if on {
		led = 255
	}
	b.setLED(led)
}

var healthOK = object{"State": "Enabled", "Health": "OK"}

func (x Sensor) status() object {
	switch {
	case x.Dead:
		return object{"State": "Absent"}
	case x.Value >= x.High:
		return object{"State": "Enabled", "Health": "Critical"}
	}
	return healthOK
}

// reading is null where there is none.
func (x Sensor) reading() any {
	if x.Dead {
		return nil
	}
	return x.Value
}

// health makes manager and chassis known, with the light, the sensors and the event log (DSP0268).
func (b *BMC) health(mux *http.ServeMux, get func(string, func() object), collection func(string, string, ...string), system string) {
	const chassis, manager = "/redfish/v1/Chassis/1", "/redfish/v1/Managers/1"
	get(manager, func() object {
		m := object{"@odata.id": manager, "@odata.type": "#Manager.v1_5_0.Manager", "Id": "1", "Name": "Manager", "ManagerType": "BMC", "FirmwareVersion": "1.0",
			"DateTime": time.Now().UTC().Format(time.RFC3339), "Status": healthOK, "Links": object{"ManagerForServers": []object{ref(system)}}}
		if b.Redfish.LogOfManager {
			m["LogServices"] = ref(manager + "/LogServices")
		}
		if b.Redfish.ConsoleOfManager != nil {
			m["SerialConsole"] = b.Redfish.ConsoleOfManager
		}
		return m
	})
	ways := b.Redfish.Sensors
	get(chassis, func() object {
		c := object{"@odata.id": chassis, "@odata.type": "#Chassis.v1_10_0.Chassis", "Id": "1", "Name": "Chassis", "ChassisType": "RackMount", "PowerState": b.powerState(),
			"Status": healthOK, "Links": object{"ComputerSystems": []object{ref(system)}}}
		switch ways {
		case "":
			c["Thermal"], c["Power"] = ref(chassis+"/Thermal"), ref(chassis+"/Power")
		case "subsystem":
			c["ThermalSubsystem"] = ref(chassis + "/ThermalSubsystem")
		default:
			c["Sensors"] = ref(chassis + "/Sensors")
		}
		if b.Redfish.OldLED {
			c["IndicatorLED"] = map[bool]string{true: "Blinking", false: "Off"}[b.LED() != 0]
		}
		return c
	})
	mux.HandleFunc("PATCH "+chassis, func(w http.ResponseWriter, r *http.Request) {
		if !b.allowed(w, r) {
			return
		}
		var in struct{ IndicatorLED string }
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || !b.Redfish.OldLED || in.IndicatorLED != "Blinking" && in.IndicatorLED != "Off" {
			b.fail(w, http.StatusBadRequest, "PropertyValueNotInList", "the IndicatorLED may be Blinking or Off")
			return
		}
		b.burn(in.IndicatorLED == "Blinking")
		w.WriteHeader(http.StatusNoContent)
	})
	switch ways {
	case "":
		get(chassis+"/Thermal", b.thermal)
		get(chassis+"/Power", b.powerResource)
	case "subsystem":
		b.subsystem(get, collection, chassis)
	default:
		b.sensorCollection(mux, get, chassis+"/Sensors")
	}
	owner := system
	if b.Redfish.LogOfManager {
		owner = manager
	}
	b.logs(mux, get, collection, owner+"/LogServices")
}

// of are the sensors of a kind of IPMI's, each made into an object.
func (b *BMC) of(kind byte, make func(n int, x Sensor) object) []object {
	out := []object{}
	for n, x := range b.sensors() {
		if x.Kind == kind {
			o := make(n, x)
			o["MemberId"], o["Name"], o["Status"] = strconv.Itoa(len(out)), x.Name, x.status()
			out = append(out, o)
		}
	}
	return out
}

func (b *BMC) thermal() object {
	const id = "/redfish/v1/Chassis/1/Thermal"
	return object{"@odata.id": id, "@odata.type": "#Thermal.v1_6_0.Thermal", "Id": "Thermal", "Name": "Thermal",
		"Temperatures": b.of(1, func(n int, x Sensor) object {
			return object{"@odata.id": fmt.Sprintf("%s#/Temperatures/%d", id, n), "ReadingCelsius": x.reading(), "UpperThresholdCritical": x.High}
		}),
		"Fans": b.of(4, func(n int, x Sensor) object {
			return object{"@odata.id": fmt.Sprintf("%s#/Fans/%d", id, n), "Reading": x.reading(), "ReadingUnits": "RPM"}
		})}
}

func (b *BMC) powerResource() object {
	const id = "/redfish/v1/Chassis/1/Power"
	return object{"@odata.id": id, "@odata.type": "#Power.v1_6_0.Power", "Id": "Power", "Name": "Power",
		"Voltages": b.of(2, func(n int, x Sensor) object {
			return object{"@odata.id": fmt.Sprintf("%s#/Voltages/%d", id, n), "ReadingVolts": x.reading()}
		}),
		"PowerControl": b.of(8, func(n int, x Sensor) object {
			return object{"@odata.id": fmt.Sprintf("%s#/PowerControl/%d", id, n), "PowerConsumedWatts": x.reading()}
		})}
}

// subsystem gives temperatures and fans as newer BMCs do, that have no Thermal any more.
func (b *BMC) subsystem(get func(string, func() object), collection func(string, string, ...string), chassis string) {
	id := chassis + "/ThermalSubsystem"
	get(id, func() object {
		return object{"@odata.id": id, "@odata.type": "#ThermalSubsystem.v1_0_0.ThermalSubsystem", "Id": "ThermalSubsystem", "Name": "Thermal", "ThermalMetrics": ref(id + "/ThermalMetrics"), "Fans": ref(id + "/Fans")}
	})
	get(id+"/ThermalMetrics", func() object {
		list := []object{}
		for _, x := range b.sensors() {
			if x.Kind == 1 {
				list = append(list, object{"DeviceName": x.Name, "Reading": x.reading()})
			}
		}
		return object{"@odata.id": id + "/ThermalMetrics", "@odata.type": "#ThermalMetrics.v1_0_0.ThermalMetrics", "Id": "ThermalMetrics", "Name": "Metrics", "TemperatureReadingsCelsius": list}
	})
	var fans []string
	for n, x := range b.sensors() {
		if x.Kind != 4 {
			continue
		}
		path := fmt.Sprintf("%s/Fans/%d", id, n)
		fans = append(fans, path)
		get(path, func() object {
			return object{"@odata.id": path, "@odata.type": "#Fan.v1_3_0.Fan", "Id": strconv.Itoa(n), "Name": x.Name, "Status": x.status(), "SpeedPercent": object{"Reading": 40, "SpeedRPM": x.reading()}}
		})
	}
	collection(id+"/Fans", "Fan", fans...)
}

// sensorCollection gives each sensor by itself, and all at once to who asks for that.
func (b *BMC) sensorCollection(mux *http.ServeMux, get func(string, func() object), path string) {
	words := map[byte][2]string{1: {"Temperature", "Cel"}, 2: {"Voltage", "V"}, 4: {"Rotational", "RPM"}, 8: {"Power", "W"}}
	one := func(n int, x Sensor) object {
		return object{"@odata.id": fmt.Sprintf("%s/%d", path, n), "@odata.type": "#Sensor.v1_2_0.Sensor", "Id": strconv.Itoa(n), "Name": x.Name,
			"Reading": x.reading(), "ReadingType": words[x.Kind][0], "ReadingUnits": words[x.Kind][1], "Status": x.status()}
	}
	for n, x := range b.sensors() {
		get(fmt.Sprintf("%s/%d", path, n), func() object { return one(n, x) })
	}
	mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
		if !b.allowed(w, r) {
			return
		}
		list := []object{}
		for n, x := range b.sensors() {
			if r.URL.Query().Get("$expand") != "" {
				list = append(list, one(n, x))
			} else {
				list = append(list, ref(fmt.Sprintf("%s/%d", path, n)))
			}
		}
		b.reply(w, http.StatusOK, object{"@odata.id": path, "@odata.type": "#SensorCollection.SensorCollection", "Name": "Sensors", "Members": list, "Members@odata.count": len(list)})
	})
}

// logPage is how many entries come at once where they come as links.
const logPage = 2

// logs makes the event log known below path.
func (b *BMC) logs(mux *http.ServeMux, get func(string, func() object), collection func(string, string, ...string), path string) {
	id := path + "/SEL"
	all := []string{id}
	if b.Redfish.LogOfManager {
		all = []string{path + "/Audit", id}
		get(path+"/Audit", func() object {
			return object{"@odata.id": path + "/Audit", "@odata.type": "#LogService.v1_1_2.LogService", "Id": "Audit", "Name": "Audit", "Entries": ref(path + "/Audit/Entries")}
		})
		collection(path+"/Audit/Entries", "LogEntry")
	}
	collection(path, "LogService", all...)
	get(id, func() object {
		return object{"@odata.id": id, "@odata.type": "#LogService.v1_1_2.LogService", "Id": "SEL", "Name": "System Event Log", "LogEntryType": "SEL", "MaxNumberOfRecords": 1000, "OverWritePolicy": "WrapsWhenFull",
			"ServiceEnabled": true, "Entries": ref(id + "/Entries"), "Actions": object{"#LogService.ClearLog": object{"target": id + "/Actions/LogService.ClearLog"}}}
	})
	entry := func(n int, e Event) object {
		o := object{"@odata.id": fmt.Sprintf("%s/Entries/%d", id, n), "@odata.type": "#LogEntry.v1_4_0.LogEntry", "Id": strconv.Itoa(n), "Name": "Entry", "EntryType": "SEL", "Severity": e.Severity, "Message": e.Text}
		if !e.Time.IsZero() {
			o["Created"] = e.Time.Format(time.RFC3339)
		}
		return o
	}
	mux.HandleFunc("GET "+id+"/Entries", func(w http.ResponseWriter, r *http.Request) {
		if !b.allowed(w, r) {
			return
		}
		events := b.Events()
		out := object{"@odata.id": id + "/Entries", "@odata.type": "#LogEntryCollection.LogEntryCollection", "Name": "Entries", "Members@odata.count": len(events)}
		list := []object{}
		if b.Redfish.LogOfManager {
			skip, _ := strconv.Atoi(r.URL.Query().Get("$skip"))
			for n := len(events) - max(0, skip); n > 0 && len(list) < logPage; n-- {
				list = append(list, ref(fmt.Sprintf("%s/Entries/%d", id, n)))
			}
			if skip += logPage; skip < len(events) {
				out["Members@odata.nextLink"] = fmt.Sprintf("%s/Entries?$skip=%d", id, skip)
			}
		} else {
			for n, e := range events {
				list = append(list, entry(n+1, e))
			}
		}
		out["Members"] = list
		b.reply(w, http.StatusOK, out)
	})
	mux.HandleFunc("GET "+id+"/Entries/{n}", func(w http.ResponseWriter, r *http.Request) {
		if !b.allowed(w, r) {
			return
		}
		events := b.Events()
		n, err := strconv.Atoi(r.PathValue("n"))
		if err != nil || n < 1 || n > len(events) {
			b.fail(w, http.StatusNotFound, "ResourceMissingAtURI", "there is no such entry")
			return
		}
		b.reply(w, http.StatusOK, entry(n, events[n-1]))
	})
	mux.HandleFunc("POST "+id+"/Actions/LogService.ClearLog", func(w http.ResponseWriter, r *http.Request) {
		if b.allowed(w, r) {
			b.clearEvents()
			w.WriteHeader(http.StatusNoContent)
		}
	})
}
