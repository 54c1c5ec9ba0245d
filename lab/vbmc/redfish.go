package vbmc

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// maxBody bounds a request.
const maxBody = 64 << 10

// resetTypes are what the machine can do, in Redfish's words (DSP0268, Resource, ResetType).
var resetTypes = map[string]string{"On": "on", "ForceOff": "off", "GracefulShutdown": "soft", "ForceRestart": "reset", "PowerCycle": "cycle", "ForceOn": "on"}

type object = map[string]any

func ref(id string) object { return object{"@odata.id": id} }

// Handler speaks Redfish (DSP0266 1.15): service root, sessions, one system with reset and boot override, one manager,
// one chassis.
func (b *BMC) Handler() http.Handler {
	mux := http.NewServeMux()
	get := func(path string, f func() object) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			if path == "/redfish/v1/" || b.allowed(w, r) {
				b.reply(w, http.StatusOK, f())
			}
		})
	}
	collection := func(path, kind string, members ...string) {
		get(path, func() object {
			list := []object{}
			for _, m := range members {
				list = append(list, ref(m))
			}
			return object{"@odata.id": path, "@odata.type": "#" + kind + "Collection." + kind + "Collection", "Name": kind + " Collection", "Members": list, "Members@odata.count": len(list)}
		})
	}
	mux.HandleFunc("GET /redfish", func(w http.ResponseWriter, _ *http.Request) { b.reply(w, http.StatusOK, object{"v1": "/redfish/v1/"}) })
	mux.Handle("GET /redfish/v1", http.RedirectHandler("/redfish/v1/", http.StatusPermanentRedirect))
	get("/redfish/v1/", func() object {
		return object{"@odata.id": "/redfish/v1/", "@odata.type": "#ServiceRoot.v1_5_0.ServiceRoot", "Id": "RootService", "Name": "Root Service", "RedfishVersion": "1.15.0",
			"UUID": "92384634-2938-2342-8820-489239905423", "Systems": ref("/redfish/v1/Systems"), "Managers": ref("/redfish/v1/Managers"), "Chassis": ref("/redfish/v1/Chassis"),
			"SessionService": ref("/redfish/v1/SessionService"), "Links": object{"Sessions": ref("/redfish/v1/SessionService/Sessions")}}
	})
	get("/redfish/v1/SessionService", func() object {
		return object{"@odata.id": "/redfish/v1/SessionService", "@odata.type": "#SessionService.v1_1_8.SessionService", "Id": "SessionService", "Name": "Session Service",
			"ServiceEnabled": true, "SessionTimeout": 1800, "Sessions": ref("/redfish/v1/SessionService/Sessions")}
	})
	collection("/redfish/v1/SessionService/Sessions", "Session")
	mux.HandleFunc("POST /redfish/v1/SessionService/Sessions", b.login)
	mux.HandleFunc("DELETE /redfish/v1/SessionService/Sessions/{id}", b.logout)
	collection("/redfish/v1/Systems", "ComputerSystem", "/redfish/v1/Systems/1")
	collection("/redfish/v1/Managers", "Manager", "/redfish/v1/Managers/1")
	collection("/redfish/v1/Chassis", "Chassis", "/redfish/v1/Chassis/1")
	mux.HandleFunc("GET /redfish/v1/Systems/1", func(w http.ResponseWriter, r *http.Request) {
		if b.allowed(w, r) {
			sys := b.system()
			w.Header().Set("ETag", etag(sys))
			b.reply(w, http.StatusOK, sys)
		}
	})
	mux.HandleFunc("PATCH /redfish/v1/Systems/1", b.patchSystem)
	mux.HandleFunc("POST /redfish/v1/Systems/1/Actions/ComputerSystem.Reset", b.reset)
	get("/redfish/v1/Managers/1", func() object {
		return object{"@odata.id": "/redfish/v1/Managers/1", "@odata.type": "#Manager.v1_5_0.Manager", "Id": "1", "Name": "Manager", "ManagerType": "BMC", "FirmwareVersion": "1.0",
			"DateTime": time.Now().UTC().Format(time.RFC3339), "Status": object{"State": "Enabled", "Health": "OK"}, "Links": object{"ManagerForServers": []object{ref("/redfish/v1/Systems/1")}}}
	})
	get("/redfish/v1/Chassis/1", func() object {
		return object{"@odata.id": "/redfish/v1/Chassis/1", "@odata.type": "#Chassis.v1_10_0.Chassis", "Id": "1", "Name": "Chassis", "ChassisType": "RackMount", "PowerState": b.powerState(),
			"Status": object{"State": "Enabled", "Health": "OK"}, "Links": object{"ComputerSystems": []object{ref("/redfish/v1/Systems/1")}}}
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		b.fail(w, http.StatusNotFound, "ResourceMissingAtURI", "the resource at "+r.URL.Path+" was not found")
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(b.Latency)
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		if p := strings.TrimSuffix(r.URL.Path, "/"); p != "/redfish/v1" && p != r.URL.Path {
			r.URL.Path = p
		}
		mux.ServeHTTP(w, r)
	})
}

func (b *BMC) powerState() string {
	if b.machine.Power() {
		return "On"
	}
	return "Off"
}

func (b *BMC) system() object {
	b.mu.Lock()
	device, once, uefi := b.device, b.once, b.uefi
	b.mu.Unlock()
	target, enabled, mode := "None", "Disabled", "Legacy"
	if device != "" {
		target, enabled = map[string]string{"pxe": "Pxe", "disk": "Hdd"}[device], "Continuous"
		if once {
			enabled = "Once"
		}
	}
	if uefi {
		mode = "UEFI"
	}
	kinds := []string{"On", "ForceOff", "GracefulShutdown", "ForceRestart", "PowerCycle", "ForceOn"}
	return object{"@odata.id": "/redfish/v1/Systems/1", "@odata.type": "#ComputerSystem.v1_13_0.ComputerSystem", "Id": "1", "Name": "System", "SystemType": "Physical",
		"Manufacturer": "Mimeo", "Model": "Virtual Node", "PowerState": b.powerState(), "Status": object{"State": "Enabled", "Health": "OK"},
		"Boot": object{"BootSourceOverrideTarget": target, "BootSourceOverrideEnabled": enabled, "BootSourceOverrideMode": mode,
			"BootSourceOverrideTarget@Redfish.AllowableValues": []string{"None", "Pxe", "Hdd"}, "BootSourceOverrideMode@Redfish.AllowableValues": []string{"Legacy", "UEFI"}},
		"Actions": object{"#ComputerSystem.Reset": object{"target": "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset", "ResetType@Redfish.AllowableValues": kinds}},
		"Links":   object{"ManagedBy": []object{ref("/redfish/v1/Managers/1")}, "Chassis": []object{ref("/redfish/v1/Chassis/1")}}}
}

// etag names the state of the boot override, which is what a PATCH changes.
func etag(sys object) string {
	j, _ := json.Marshal(sys["Boot"])
	sum := sha256.Sum256(j)
	return `"` + hex.EncodeToString(sum[:8]) + `"`
}

func (b *BMC) same(user, password string) bool {
	u := subtle.ConstantTimeCompare([]byte(user), []byte(b.user))
	return u&subtle.ConstantTimeCompare([]byte(password), []byte(b.password)) == 1
}

// allowed lets in who has a session or the account.
func (b *BMC) allowed(w http.ResponseWriter, r *http.Request) bool {
	b.mu.Lock()
	ok := b.sessions[r.Header.Get("X-Auth-Token")]
	b.mu.Unlock()
	if user, password, basic := r.BasicAuth(); !ok && basic {
		ok = b.same(user, password)
	}
	if !ok {
		w.Header().Set("WWW-Authenticate", `Basic realm="vbmc"`)
		b.fail(w, http.StatusUnauthorized, "NoValidSession", "there is no valid session")
	}
	return ok
}

func (b *BMC) login(w http.ResponseWriter, r *http.Request) {
	var in struct{ UserName, Password string }
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		b.fail(w, http.StatusBadRequest, "MalformedJSON", err.Error())
		return
	}
	if !b.same(in.UserName, in.Password) {
		b.fail(w, http.StatusUnauthorized, "ResourceAtUriUnauthorized", "user name or password is wrong")
		return
	}
	var t [16]byte
	rand.Read(t[:])
	token := hex.EncodeToString(t[:])
	b.mu.Lock()
	b.sessions[token] = true
	b.mu.Unlock()
	id := "/redfish/v1/SessionService/Sessions/" + token[:8]
	w.Header().Set("X-Auth-Token", token)
	w.Header().Set("Location", id)
	b.reply(w, http.StatusCreated, object{"@odata.id": id, "@odata.type": "#Session.v1_3_0.Session", "Id": token[:8], "Name": "User Session", "UserName": in.UserName})
}

func (b *BMC) logout(w http.ResponseWriter, r *http.Request) {
	if !b.allowed(w, r) {
		return
	}
	b.mu.Lock()
	for t := range b.sessions {
		if t[:8] == r.PathValue("id") {
			delete(b.sessions, t)
		}
	}
	b.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

// Sessions tells how many sessions are open, so that a test sees those left behind.
func (b *BMC) Sessions() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.sessions)
}

func (b *BMC) patchSystem(w http.ResponseWriter, r *http.Request) {
	if !b.allowed(w, r) {
		return
	}
	if m := r.Header.Get("If-Match"); m != "" && m != "*" && m != etag(b.system()) {
		b.fail(w, http.StatusPreconditionFailed, "PreconditionFailed", "the ETag does not match")
		return
	}
	var in struct {
		Boot struct{ BootSourceOverrideTarget, BootSourceOverrideEnabled, BootSourceOverrideMode *string }
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		b.fail(w, http.StatusBadRequest, "MalformedJSON", err.Error())
		return
	}
	b.mu.Lock()
	device, once, uefi := b.device, b.once, b.uefi
	b.mu.Unlock()
	if v := in.Boot.BootSourceOverrideTarget; v != nil {
		d, ok := map[string]string{"None": "", "Pxe": "pxe", "Hdd": "disk"}[*v]
		if !ok {
			b.fail(w, http.StatusBadRequest, "PropertyValueNotInList", fmt.Sprintf("%q is none of the boot sources", *v))
			return
		}
		device = d
	}
	if v := in.Boot.BootSourceOverrideEnabled; v != nil {
		switch *v {
		case "Disabled":
			device = ""
		case "Once":
			once = true
		case "Continuous":
			once = false
		default:
			b.fail(w, http.StatusBadRequest, "PropertyValueNotInList", fmt.Sprintf("%q is none of Disabled, Once, Continuous", *v))
			return
		}
	}
	if v := in.Boot.BootSourceOverrideMode; v != nil {
		uefi = *v == "UEFI"
	}
	if err := b.setBoot(device, once, uefi); err != nil {
		b.fail(w, http.StatusInternalServerError, "InternalError", err.Error())
		return
	}
	b.reply(w, http.StatusOK, b.system())
}

func (b *BMC) reset(w http.ResponseWriter, r *http.Request) {
	if !b.allowed(w, r) {
		return
	}
	var in struct{ ResetType string }
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		b.fail(w, http.StatusBadRequest, "MalformedJSON", err.Error())
		return
	}
	action, ok := resetTypes[in.ResetType]
	if !ok {
		b.fail(w, http.StatusBadRequest, "ActionParameterNotSupported", fmt.Sprintf("%q is no reset type of this system", in.ResetType))
		return
	}
	if err := b.do(action); err != nil {
		b.fail(w, http.StatusInternalServerError, "InternalError", err.Error())
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (b *BMC) reply(w http.ResponseWriter, status int, v object) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("OData-Version", "4.0")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

// fail answers with an error in Redfish's form (DSP0266 section 8.6).
func (b *BMC) fail(w http.ResponseWriter, status int, id, text string) {
	b.reply(w, status, object{"error": object{"code": "Base.1.8." + id, "message": text,
		"@Message.ExtendedInfo": []object{{"@odata.type": "#Message.v1_1_1.Message", "MessageId": "Base.1.8." + id, "Message": text, "Severity": "Critical", "Resolution": "None"}}}})
}
