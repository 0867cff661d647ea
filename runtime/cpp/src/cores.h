// How many threads suit this process: one for each core that it is given time on. Mirrors runtime/cores.py.
#pragma once

#include <string>
#include <vector>

namespace aurora {

// Numbers of the hardware threads that this process may run on.
std::vector<int> usable_cpus();

// Physical cores among them, at most the control groups' quota of time rounded up; at least 1.
// `system`: where the files of the system are, ending in /; for tests.
int n_usable_cores(const std::vector<int>& cpus = usable_cpus(), const std::string& system = "/");

}  // namespace aurora
