package vbmc

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"
)

// maxBody bounds a request.
const maxBody = 64 << 10

// resetActions are what the machine can do, in Redfish's words (DSP0268, Resource, ResetType).
var resetActions = map[string]string{"On": "on", "ForceOff": "off", "GracefulShutdown": "soft", "ForceRestart": "reset", "PowerCycle": "cycle", "ForceOn": "on", "PushPowerButton": "soft"}

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
		return object{"@odata.id": "/redfish/v1/", "@odata.type": "#ServiceRoot.v1_5_0.ServiceRoot", "ProtocolFeaturesSupported": object{"ExpandQuery": object{"NoLinks": b.Redfish.Sensors == "expand", "MaxLevels": 1}}, "Id": "RootService", "Name": "Root Service", "RedfishVersion": "1.15.0",
			"UUID": "92384634-2938-2342-8820-489239905423", "Systems": ref("/redfish/v1/Systems"), "Managers": ref("/redfish/v1/Managers"), "Chassis": ref("/redfish/v1/Chassis"),
			"SessionService": ref("/redfish/v1/SessionService"), "Tasks": ref("/redfish/v1/TaskService"), "Links": object{"Sessions": ref("/redfish/v1/SessionService/Sessions")}}
	})
	get("/redfish/v1/SessionService", func() object {
		return object{"@odata.id": "/redfish/v1/SessionService", "@odata.type": "#SessionService.v1_1_8.SessionService", "Id": "SessionService", "Name": "Session Service",
			"ServiceEnabled": true, "SessionTimeout": 1800, "Sessions": ref("/redfish/v1/SessionService/Sessions")}
	})
	collection("/redfish/v1/SessionService/Sessions", "Session")
	if !b.Redfish.NoSessions {
		mux.HandleFunc("POST /redfish/v1/SessionService/Sessions", b.login)
	}
	mux.HandleFunc("DELETE /redfish/v1/SessionService/Sessions/{id}", b.logout)
	var systems []string
	for n := range max(1, b.Redfish.Systems) {
		if b.Redfish.SystemID != "" && n == 0 {
			systems = append(systems, "/redfish/v1/Systems/"+b.Redfish.SystemID)
			continue
		}
		systems = append(systems, fmt.Sprintf("/redfish/v1/Systems/%d", n+1))
	}
	collection("/redfish/v1/Systems", "ComputerSystem", systems...)
	collection("/redfish/v1/Managers", "Manager", "/redfish/v1/Managers/1")
	collection("/redfish/v1/Chassis", "Chassis", "/redfish/v1/Chassis/1")
	for _, id := range systems {
		mux.HandleFunc("GET "+id, func(w http.ResponseWriter, r *http.Request) {
			if b.allowed(w, r) {
				sys := b.system(id)
				w.Header().Set("ETag", etag(sys))
				b.reply(w, http.StatusOK, sys)
			}
		})
		patched := id
		if b.Redfish.SettingsObject {
			patched = id + "/Settings"
			mux.HandleFunc("GET "+patched, func(w http.ResponseWriter, r *http.Request) {
				if b.allowed(w, r) {
					sys := b.system(id)
					b.reply(w, http.StatusOK, object{"@odata.id": patched, "@odata.etag": etag(sys), "Boot": sys["Boot"]})
				}
			})
		}
		mux.HandleFunc("PATCH "+patched, func(w http.ResponseWriter, r *http.Request) { b.patchSystem(w, r, id) })
		mux.HandleFunc("POST "+id+"/Actions/ComputerSystem.Reset", b.reset)
		get(id+"/ResetActionInfo", func() object {
			return object{"@odata.id": id + "/ResetActionInfo", "@odata.type": "#ActionInfo.v1_1_2.ActionInfo", "Id": "ResetActionInfo", "Name": "Reset Action Info",
				"Parameters": []object{{"Name": "ResetType", "Required": true, "DataType": "String", "AllowableValues": b.resetTypes()}}}
		})
	}
	mux.HandleFunc("GET /redfish/v1/TaskService/TaskMonitors/{id}", b.monitor)
	b.health(mux, get, collection, systems[0])
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		b.fail(w, http.StatusNotFound, "ResourceMissingAtURI", "the resource at "+r.URL.Path+" was not found")
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.pause(r.Context())
		if b.gone.Load() {
			panic(http.ErrAbortHandler) // the connection breaks off
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		if p := strings.TrimSuffix(r.URL.Path, "/"); p != "/redfish/v1" && p != r.URL.Path {
			r.URL.Path = p
		}
		mux.ServeHTTP(w, r)
	})
}

func (b *BMC) powerState() string {
	if b.power() {
		return "On"
	}
	return "Off"
}

func (b *BMC) system(id string) object {
	b.mu.Lock()
	device, once, uefi, bootPath := b.device, b.once, b.uefi, b.path
	b.mu.Unlock()
	target, enabled, mode := "None", "Disabled", "Legacy"
	if device != "" {
		target, enabled = map[string]string{"pxe": "Pxe", "http": "UefiHttp", "disk": "Hdd", "setup": "BiosSetup", "uefi": "UefiTarget"}[device], "Continuous"
		if once {
			enabled = "Once"
		}
	}
	if uefi {
		mode = "UEFI"
	}
	reset := object{"target": id + "/Actions/ComputerSystem.Reset"}
	if b.Redfish.ActionInfo {
		reset["@Redfish.ActionInfo"] = id + "/ResetActionInfo"
	} else {
		reset["ResetType@Redfish.AllowableValues"] = b.resetTypes()
	}
	sys := object{"@odata.id": id, "@odata.type": "#ComputerSystem.v1_13_0.ComputerSystem", "Id": path.Base(id), "Name": "System", "SystemType": "Physical",
		"Manufacturer": "Mimeo", "Model": "Virtual Node", "PowerState": b.powerState(), "Status": object{"State": "Enabled", "Health": "OK"},
		"Boot": object{"BootSourceOverrideTarget": target, "UefiTargetBootSourceOverride": bootPath, "BootSourceOverrideEnabled": enabled, "BootSourceOverrideMode": mode,
			"BootSourceOverrideTarget@Redfish.AllowableValues": bootTargets, "BootSourceOverrideMode@Redfish.AllowableValues": []string{"Legacy", "UEFI"}},
		"Actions": object{"#ComputerSystem.Reset": reset},
		"Links":   object{"ManagedBy": []object{ref("/redfish/v1/Managers/1")}, "Chassis": []object{ref("/redfish/v1/Chassis/1")}}}
	if b.Redfish.SettingsObject {
		sys["@Redfish.Settings"] = object{"@odata.type": "#Settings.v1_3_0.Settings", "SettingsObject": ref(id + "/Settings")}
	}
	if !b.Redfish.OldLED {
		sys["LocationIndicatorActive"] = b.LED() != 0
	}
	if b.Redfish.Console != nil {
		sys["SerialConsole"] = b.Redfish.Console
	}
	if !b.Redfish.LogOfManager {
		sys["LogServices"] = ref(id + "/LogServices")
	}
	return sys
}

// bootTargets are the devices that it knows.
var bootTargets = []string{"None", "Pxe", "UefiHttp", "Hdd", "BiosSetup", "UefiTarget"}

// resetTypes are those that the BMC knows.
func (b *BMC) resetTypes() []string {
	if len(b.Redfish.ResetTypes) > 0 {
		return b.Redfish.ResetTypes
	}
	return []string{"On", "ForceOff", "GracefulShutdown", "ForceRestart", "PowerCycle", "ForceOn"}
}

// etag names the state of what a PATCH changes.
func etag(sys object) string {
	j, _ := json.Marshal([]any{sys["Boot"], sys["LocationIndicatorActive"]})
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

func (b *BMC) patchSystem(w http.ResponseWriter, r *http.Request, id string) {
	if !b.allowed(w, r) {
		return
	}
	m := r.Header.Get("If-Match")
	if m == "" && b.Redfish.NeedETag {
		b.fail(w, http.StatusPreconditionRequired, "PreconditionRequired", "the request must name the ETag")
		return
	}
	if m != "" && m != "*" && m != etag(b.system(id)) {
		b.fail(w, http.StatusPreconditionFailed, "PreconditionFailed", "the ETag does not match")
		return
	}
	var in struct {
		LocationIndicatorActive *bool
		Boot                    struct{ BootSourceOverrideTarget, BootSourceOverrideEnabled, BootSourceOverrideMode, UefiTargetBootSourceOverride *string }
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		b.fail(w, http.StatusBadRequest, "MalformedJSON", err.Error())
		return
	}
	if v := in.LocationIndicatorActive; v != nil && !b.Redfish.OldLED {
		b.burn(*v)
		w.WriteHeader(http.StatusNoContent)
		return
	}
	b.mu.Lock()
	device, once, uefi := b.device, b.once, b.uefi
	if v := in.Boot.UefiTargetBootSourceOverride; v != nil {
		b.path = *v
	}
	b.mu.Unlock()
	if v := in.Boot.BootSourceOverrideTarget; v != nil {
		d, ok := map[string]string{"None": "", "Pxe": "pxe", "UefiHttp": "http", "Hdd": "disk", "BiosSetup": "setup", "UefiTarget": "uefi"}[*v]
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
		if b.Redfish.NoMode {
			b.fail(w, http.StatusBadRequest, "PropertyNotWritable", "BootSourceOverrideMode is read-only")
			return
		}
		if *v != "UEFI" && *v != "Legacy" {
			b.fail(w, http.StatusBadRequest, "PropertyValueNotInList", fmt.Sprintf("%q is none of Legacy, UEFI", *v))
			return
		}
		uefi = *v == "UEFI"
	}
	if err := b.setBoot(device, once, uefi); err != nil {
		b.fail(w, http.StatusInternalServerError, "InternalError", err.Error())
		return
	}
	b.reply(w, http.StatusOK, b.system(id))
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
	action, ok := resetActions[in.ResetType]
	if !ok || !slices.Contains(b.resetTypes(), in.ResetType) {
		b.fail(w, http.StatusBadRequest, "ActionParameterNotSupported", fmt.Sprintf("%q is no reset type of this system", in.ResetType))
		return
	}
	if b.Redfish.Tasks {
		b.mu.Lock()
		n := len(b.tasks)
		b.tasks = append(b.tasks, nil)
		b.mu.Unlock()
		time.AfterFunc(taskTime, func() {
			err := b.do(action)
			b.mu.Lock()
			defer b.mu.Unlock()
			b.tasks[n] = &err
		})
		b.accepted(w, n)
		return
	}
	switch err := b.do(action); {
	case errors.Is(err, errBusy):
		w.Header().Set("Retry-After", "1")
		b.fail(w, http.StatusServiceUnavailable, "ServiceTemporarilyUnavailable", "the BMC is busy")
	case errors.Is(err, errOff):
		b.fail(w, http.StatusConflict, "ResourceInUse", "the system is off")
	case err != nil:
		b.fail(w, http.StatusInternalServerError, "InternalError", err.Error())
	default:
		w.WriteHeader(http.StatusNoContent)
	}
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
