// SPDX-License-Identifier: MIT
// For the programs that node runs: check(got, want, what), and the closing line.
'use strict';
let passed = 0;
let failed = 0;

function show(x)
{
	return typeof x === 'bigint' ? `${x}n` : JSON.stringify(x) ?? String(x);
}

exports.check = (got, want, what) => {
	if (show(got) === show(want)) {
		passed++;
	} else {
		failed++;
		console.log(`failed: ${what}: ${show(got)}, not ${show(want)}`);
	}
};

exports.end = () => {
	console.log(`${passed} passed, ${failed} failed`);
	process.exitCode = failed || !passed ? 1 : 0;
};
