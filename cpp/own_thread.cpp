// SPDX-License-Identifier: Apache-2.0
#include "own_thread.hpp"

#include <cstring>
#include <exception>
#include <system_error>
#include <thread>

#include "error.hpp"

namespace hr {

void on_own_thread(const std::function<void()> &run) {
    std::exception_ptr thrown;
    auto body = [&] {
        try {
            run();
        } catch (...) {
            thrown = std::current_exception();
        }
    };
    try {
        std::thread(body).join();
    } catch (const std::system_error &error) {
        const int err = error.code().value();
        throw Error(Kind::kernel_error, "thread",
                    std::string("cannot start: ") + std::strerror(err) +
                        "; there may be a limit of tasks (pids.max, TasksMax=)",
                    err);
    }
    if (thrown)
        std::rethrow_exception(thrown);
}

} // namespace hr
