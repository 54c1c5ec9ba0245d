package vbmc

import (
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// taskTime is how long a task takes.
const taskTime = 150 * time.Millisecond

// accepted answers with a task and its monitor (DSP0266 section 12.2).
func (b *BMC) accepted(w http.ResponseWriter, n int) {
	w.Header().Set("Location", fmt.Sprintf("/redfish/v1/TaskService/TaskMonitors/%d", n))
	b.reply(w, http.StatusAccepted, object{"@odata.id": fmt.Sprintf("/redfish/v1/TaskService/Tasks/%d", n), "@odata.type": "#Task.v1_4_3.Task",
		"Id": strconv.Itoa(n), "Name": "Reset", "TaskState": "Running", "TaskStatus": "OK"})
}

// monitor answers 202 while the task runs, and then what the request would have been answered without a task.
func (b *BMC) monitor(w http.ResponseWriter, r *http.Request) {
	if !b.allowed(w, r) {
		return
	}
	n, err := strconv.Atoi(r.PathValue("id"))
	b.mu.Lock()
	known := err == nil && n >= 0 && n < len(b.tasks)
	var ended *error
	if known {
		ended = b.tasks[n]
	}
	b.mu.Unlock()
	switch {
	case !known:
		b.fail(w, http.StatusNotFound, "ResourceMissingAtURI", "there is no such task")
	case ended == nil:
		b.accepted(w, n)
	case *ended != nil:
		b.fail(w, http.StatusInternalServerError, "InternalError", (*ended).Error())
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}
