package ipmi

// sensorTypes are those of table 42-3, in our words, by number.
var sensorTypes = []string{"reserved", "temperature", "voltage", "current", "fan", "physical security", "platform security", "processor", "power supply", "power unit",
	"cooling device", "other units", "memory", "drive slot", "POST memory resize", "system firmware", "event logging", "watchdog 1", "system event", "critical interrupt",
	"button", "module", "microcontroller", "add-in card", "chassis", "chip set", "other part", "cable", "terminator", "system boot", "boot error", "OS boot", "OS stop",
	"slot", "ACPI power state", "watchdog", "platform alert", "entity presence", "monitor chip", "LAN", "management health", "battery", "session audit", "version change", "part state"}

// In the lists below, the place is the event's offset; "!" before a text says that it is critical, "?" that it is a
// warning.

var thresholds = []string{"?low", "?low, and rising", "!critically low", "!critically low, and rising", "!far too low", "!far too low, and rising",
	"?high, and falling", "?high", "!critically high, and falling", "!critically high", "!far too high, and falling", "!far too high"}

// generic are events of any sensor by their event type (table 42-2).
var generic = map[byte][]string{
	0x02: {"idle", "active", "busy"},
	0x03: {"state left", "state entered"},
	0x04: {"no failure predicted", "?failure predicted"},
	0x05: {"limit kept", "!limit exceeded"},
	0x06: {"performance met", "?performance lags"},
	0x07: {"became OK", "?became non-critical", "!became critical", "!became non-recoverable", "?improved to non-critical", "!improved to critical", "!non-recoverable", "monitored", "informed"},
	0x08: {"absent", "present"},
	0x09: {"disabled", "enabled"},
	0x0b: {"fully redundant", "!redundancy lost", "?redundancy degraded", "?not redundant, enough to run", "?not redundant, enough to run", "!not enough to run", "?redundancy degraded from full", "?redundancy degraded from none"},
}

// specific are events of one type of sensor (table 42-3).
var specific = map[byte][]string{
	0x05: {"?chassis opened", "?drive bay opened", "?I/O card area opened", "?processor area opened", "?LAN cable pulled", "?unauthorized dock", "?fan area opened"},
	0x07: {"!internal error", "!thermal trip", "!self-test failed", "!hang in POST", "!start-up failed", "!configuration error", "!uncorrectable SMBIOS error", "present", "disabled", "terminator present", "?throttled", "!machine check", "?corrected machine check"},
	0x08: {"present", "!failed", "?failure predicted", "!input lost", "!input lost or out of range", "!input out of range", "?configuration error", "inactive"},
	0x09: {"off", "power cycle", "240 V off", "interlock off", "!AC lost", "!soft control failed", "!failed", "?failure predicted"},
	0x0c: {"?corrected ECC error", "!uncorrectable ECC error", "!parity error", "!scrub failed", "?device disabled", "?too many corrected ECC errors", "present", "!configuration error", "spare", "?throttled", "!critical overtemperature"},
	0x0d: {"present", "!failed", "?failure predicted", "hot spare", "consistency check", "!in critical array", "!in failed array", "rebuilding", "?rebuild aborted"},
	0x0f: {"!POST error", "!firmware hang", "firmware progress"},
	0x10: {"?corrected memory errors are no longer logged", "?event type no longer logged", "log emptied", "?nothing is logged", "!log full", "?log nearly full"},
	0x12: {"reconfigured", "OEM boot event", "!unknown hardware failure", "auxiliary log entry", "PEF action", "clock set"},
	0x13: {"!front panel NMI", "!bus timeout", "!I/O channel check NMI", "!software NMI", "!PCI PERR", "!PCI SERR", "!EISA failure", "?bus correctable error", "!bus uncorrectable error", "!fatal NMI", "!bus fatal error", "?bus degraded"},
	0x14: {"power button", "sleep button", "reset button"},
	0x1d: {"power-up", "hard reset", "warm reset", "network boot asked for", "boot to diagnostics", "OS hard reset", "OS warm reset", "restarted"},
	0x1e: {"!no bootable medium", "?no disk in drive", "!network boot server not found", "!invalid boot sector", "?nobody chose a boot source"},
	0x1f: {"booted from A:", "booted from C:", "booted from the network", "booted diagnostics", "booted from CD", "booted from ROM", "booted", "base OS installation started", "base OS installed", "?base OS installation aborted", "!base OS installation failed"},
	0x20: {"!stop while loading", "!stop at run time", "graceful stop", "graceful shutdown", "soft shutdown by PEF", "?agent does not answer"},
	0x22: {"S0, working", "S1, sleeping", "S2, sleeping", "S3, suspended to RAM", "S4, suspended to disk", "S5, soft off", "S4 or S5", "G3, mechanical off", "sleeping", "G1, sleeping", "S5 by override", "legacy on", "legacy off", "", "unknown"},
	0x23: {"?expired", "!hard reset", "!power down", "!power cycle", "", "", "", "", "?interrupt"},
	0x25: {"present", "absent", "disabled"},
	0x27: {"?link lost", "link up"},
	0x28: {"?sensor failed", "?controller failed", "?controller unavailable", "!controller off-line", "?part failed"},
	0x29: {"?low", "!failed", "present"},
	0x2a: {"session opened", "session closed", "?wrong account", "?too many wrong passwords"},
}
