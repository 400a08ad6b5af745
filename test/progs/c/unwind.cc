/* SPDX-License-Identifier: MIT */
/* C++: exceptions through many frames and threads, virtual calls, containers, streams. */
#include "check.h"
#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <regex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

namespace {

std::atomic<int> alive;

struct counted {
	counted() { alive++; }
	~counted() { alive--; }
};

struct odd : std::runtime_error {
	explicit odd(int n) : std::runtime_error("odd " + std::to_string(n)), number(n) {}
	int number;
};

int down(int n, int thrown)
{
	counted here;
	if (!n) {
		if (thrown & 1) {
			throw odd(thrown);
		}
		throw std::string("even");
	}
	return down(n - 1, thrown) + alive;
}

int throwing(int rounds)
{
	int caught = 0;
	for (int i = 0; i < rounds; i++) {
		try {
			down(i % 50, i);
		} catch (const odd &e) {
			caught += e.number == i && e.what() == "odd " + std::to_string(i);
		} catch (const std::string &s) {
			caught += s == "even";
		}
	}
	return caught;
}

void rethrown()
{
	std::exception_ptr held;
	try {
		try {
			std::vector<int>(3).at(7);
		} catch (const std::exception &) {
			std::throw_with_nested(odd(5));
		}
	} catch (...) {
		held = std::current_exception();
	}
	bool nested = false;
	try {
		std::rethrow_exception(held);
	} catch (const odd &e) {
		try {
			std::rethrow_if_nested(e);
		} catch (const std::out_of_range &) {
			nested = true;
		}
	}
	CHECK(nested, "nested exceptions");
	try {
		std::function<void()> nothing;
		nothing();
		CHECK(false, "an empty function was called");
	} catch (const std::bad_function_call &) {
		CHECK(true, "never");
	}
}

struct shape {
	virtual ~shape() = default;
	virtual double area() const = 0;
};
struct square : shape {
	double a;
	explicit square(double x) : a(x) {}
	double area() const override { return a * a; }
};
struct circle : square {
	using square::square;
	double area() const override { return 3 * a * a; }
};

void virtuals()
{
	std::vector<std::unique_ptr<shape>> all;
	for (int i = 0; i < 1000; i++) {
		if (i % 3) {
			all.push_back(std::make_unique<square>(i));
		} else {
			all.push_back(std::make_unique<circle>(i));
		}
	}
	double sum = 0;
	int circles = 0;
	for (const auto &s : all) {
		sum += s->area();
		circles += dynamic_cast<circle *>(s.get()) != nullptr;
	}
	double want = 0;
	for (int i = 0; i < 1000; i++) {
		want += (i % 3 ? 1.0 : 3.0) * i * i;
	}
	CHECK(circles == 334 && sum == want, "%d circles, %g, not %g", circles, sum, want);
}

void containers()
{
	uint64_t seed = 99;
	std::map<std::string, int> sorted;
	std::unordered_map<std::string, int> hashed;
	std::vector<uint64_t> v;
	for (int i = 0; i < 5000; i++) {
		std::string key = "k" + std::to_string(check_random(&seed) % 1000);
		sorted[key]++;
		hashed[key]++;
		v.push_back(check_random(&seed));
	}
	bool same = sorted.size() == hashed.size();
	for (const auto &e : sorted) {
		same &= hashed[e.first] == e.second;
	}
	CHECK(same, "map and unordered_map");
	std::sort(v.begin(), v.end(), std::greater<>());
	CHECK(std::is_sorted(v.rbegin(), v.rend()), "sort");
	std::nth_element(v.begin(), v.begin() + 100, v.end());
	std::ostringstream out;
	out.precision(17);
	out << 0.1 << ' ' << std::hex << 255 << ' ' << true;
	CHECK(out.str() == "0.10000000000000001 ff 1", "%s", out.str().c_str());
	std::smatch m;
	std::string text = "ringer 2026-11-21";
	CHECK(std::regex_search(text, m, std::regex("(\\d+)-(\\d+)-(\\d+)")) && m[2] == "11", "regex");
}

} // namespace

int main()
{
	CHECK(throwing(500) == 500 && !alive, "%d alive", alive.load());
	std::vector<std::future<int>> all;
	for (int i = 0; i < 4; i++) {
		all.push_back(std::async(std::launch::async, throwing, 300));
	}
	for (auto &f : all) {
		CHECK(f.get() == 300, "exceptions in threads");
	}
	CHECK(!alive, "%d alive", alive.load());
	rethrown();
	virtuals();
	containers();
	return check_end();
}
