"""`arktos bench`: what a cluster carries on this machine, beside what Arktos published."""
