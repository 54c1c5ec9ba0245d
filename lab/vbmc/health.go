package vbmc

import (
	"slices"
	"time"
)

// Sensor is what a BMC measures.
type Sensor struct {
	Name  string
	Kind  byte // sensor type of IPMI's table 42-3: 1 temperature, 2 voltage, 4 fan, 8 power supply
	Unit  byte // of its table 43-15: 1 °C, 4 V, 6 W, 18 rpm
	Value float64
	Step  float64 // that one count of the raw reading is worth, 1 or 10 or 0.1
	High  float64 // from which on it is critical
	Dead  bool    // no reading just now
}

// Event is a line of the event log.
type Event struct {
	Time     time.Time // the zero time: the clock was not set
	Kind     byte      // sensor type
	Number   byte      // of the sensor
	Event    byte      // event type, with 0x80 where it is over
	Offset   byte
	Severity string // Redfish's: OK, Warning, Critical
	Text     string // Redfish's
}

// usual are the sensors of a BMC that was given none.
var usual = []Sensor{
	{Name: "CPU1 Temp", Kind: 1, Unit: 1, Value: 42, Step: 1, High: 95},
	{Name: "Inlet Temp", Kind: 1, Unit: 1, Value: 23, Step: 1, High: 45},
	{Name: "12V", Kind: 2, Unit: 4, Value: 12.1, Step: 0.1, High: 13.2},
	{Name: "Fan 1", Kind: 4, Unit: 18, Value: 1800, Step: 10, High: 2500},
	{Name: "Power Meter", Kind: 8, Unit: 6, Value: 180, Step: 1, High: 250},
	{Name: "Fan 2", Kind: 4, Unit: 18, Step: 10, High: 2500, Dead: true},
}

func (b *BMC) sensors() []Sensor {
	if b.Sensors == nil {
		return usual
	}
	return b.Sensors
}

// AddEvent writes a line into the event log.
func (b *BMC) AddEvent(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, e)
}

// Events are the lines of the event log.
func (b *BMC) Events() []Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.events)
}

func (b *BMC) clearEvents() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = nil
}

func (b *BMC) setLED(led byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.led = led
}
