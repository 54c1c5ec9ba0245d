package api

import "time"

// Which revisions of an image stay. NAME@REV that is pinned is not removed, by no rule and by nobody.
//
//	GET    /v1/images/{name}/retention                → Retention
//	POST   /v1/images/{name}/retention RetentionRule  → Retention: what the rule would keep; changes nothing
//	PUT    /v1/images/{name}/retention RetentionRule  → Retention: what is kept by it, after the others are removed
//	PUT    /v1/images/{name}/{rev}/pin                → Affected
//	DELETE /v1/images/{name}/{rev}/pin                → Affected

// RetentionRule says which revisions of an image stay. All zero means: all of them.
type RetentionRule struct {
	Last   int `json:"last"`   // so many of the newest
	Daily  int `json:"daily"`  // the newest of each day, of so many days that have one
	Weekly int `json:"weekly"` // the newest of each week, likewise
}

// Retention is a rule and what it comes to.
type Retention struct {
	Image     string             `json:"image"`
	Rule      RetentionRule      `json:"rule"`
	Revisions []RetentionVerdict `json:"revisions"` // in ascending order
	Removed   []int              `json:"removed"`   // revisions that were removed just now
}

// RetentionVerdict is what a rule says of a revision.
type RetentionVerdict struct {
	Rev     int       `json:"rev"`
	Created time.Time `json:"created"`
	Pinned  bool      `json:"pinned"`
	Keep    bool      `json:"keep"`
	Why     []string  `json:"why"` // reasons to keep it: newest, pinned, in use, last 2, daily 2026-03-04, weekly 2026-W10
}
