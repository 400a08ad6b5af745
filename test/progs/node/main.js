// SPDX-License-Identifier: MIT
// Work for the JavaScript engine's compilers: hot functions of one and of many shapes, code that is
// optimized and thrown away again, generated code, garbage; then what node has beside the language.
'use strict';
const { check, end } = require('./check.js');
const crypto = require('crypto');
const { execFileSync } = require('child_process');
const fs = require('fs');
const net = require('net');
const zlib = require('zlib');
const { Worker } = require('worker_threads');

// ---- a small operating system: tasks that send each other packets ----

class Packet {
	constructor(link, id, kind)
	{
		this.link = link;
		this.id = id;
		this.kind = kind;
		this.data = new Array(4).fill(0);
	}
	appendTo(queue)
	{
		this.link = null;
		if (!queue) {
			return this;
		}
		let p = queue;
		while (p.link) {
			p = p.link;
		}
		p.link = this;
		return queue;
	}
}

class Task {
	constructor(os, id, priority) { Object.assign(this, { os, id, priority, queue: null, ready: true, runs: 0 }); }
	receive(packet) { this.queue = packet.appendTo(this.queue); this.ready = true; }
	take() { const p = this.queue; if (p) { this.queue = p.link; p.link = null; } return p; }
}

class Idle extends Task {
	constructor(os, id, count) { super(os, id, 0); this.left = count; this.seed = 1; }
	run()
	{
		this.left--;
		this.seed = this.seed & 1 ? (this.seed >> 1) ^ 0xd008 : this.seed >> 1;
		this.os.send(1 + (this.seed & 1), new Packet(null, 0, this.seed & 1));
		this.ready = this.left > 0;
	}
}

class Handler extends Task {
	constructor(os, id, to) { super(os, id, id * 10); this.to = to; this.sum = 0; }
	run()
	{
		const p = this.take();
		if (!p) {
			this.ready = false;
			return;
		}
		for (let i = 0; i < p.data.length; i++) {
			p.data[i] = (p.data[i] + this.id * (i + 1)) & 0xff;
			this.sum += p.data[i];
		}
		if (this.to && p.id < 6) {
			p.id++;
			this.os.send(this.to, p);
		}
	}
}

class Device extends Handler {
	run() { super.run(); this.sum ^= 0x55; }
}

class Scheduler {
	constructor(count)
	{
		this.tasks = [new Idle(this, 0, count), new Handler(this, 1, 3), new Handler(this, 2, 4),
			new Device(this, 3, 2), new Device(this, 4, 1)];
		this.switches = 0;
	}
	send(id, packet) { this.tasks[id].receive(packet); }
	run()
	{
		for (;;) {
			let best = null;
			for (const t of this.tasks) {
				if (t.ready && (!best || t.priority > best.priority)) {
					best = t;
				}
			}
			if (!best) {
				return;
			}
			this.switches++;
			best.runs++;
			best.run();
		}
	}
}

function scheduling()
{
	const results = [];
	for (let i = 0; i < 3; i++) {
		const os = new Scheduler(4000);
		os.run();
		results.push([os.switches, ...os.tasks.slice(1).map((t) => t.sum)].join());
	}
	check(new Set(results).size, 1, 'the same every time, compiled or not');
	check(results[0], '56004,714720,723520,563605,634805', 'scheduler');
}

// ---- constraints in one direction, as a spreadsheet has them ----

function sheet()
{
	const cells = new Map();
	const set = (name, fn, ...deps) => cells.set(name, { fn, deps, value: undefined, users: [] });
	for (let i = 0; i < 2000; i++) {
		set(`a${i}`, i === 0 ? () => 1 : (x) => (x * 31 + i) % 65537, ...(i ? [`a${i - 1}`] : []));
		set(`b${i}`, (x, y) => x + y, `a${i}`, i ? `b${i - 1}` : 'a0');
	}
	for (const [name, c] of cells) {
		for (const d of c.deps) {
			cells.get(d).users.push(name);
		}
	}
	const value = (name) => {
		const c = cells.get(name);
		return c.value ??= c.fn(...c.deps.map(value));
	};
	let expect = 1;
	let sum = 1;
	for (let i = 0; i < 2000; i++) {
		expect = i ? (expect * 31 + i) % 65537 : 1;
		sum += expect;
		value(`b${i}`);
	}
	check(value('b1999'), sum, 'sheet');
}

// ---- numbers: small integers, doubles, both, arrays of each kind ----

function numbers()
{
	const fib = (n) => n < 2 ? n : fib(n - 1) + fib(n - 2);
	check(fib(24), 46368, 'fib');
	let h = 0;
	for (let i = 0; i < 3000000; i++) {
		h = (Math.imul(h, 31) + i) | 0;
	}
	check(h, 637018976, 'integers');
	const n = 48;
	const make = (f) => Array.from({ length: n }, (_, i) => Float64Array.from({ length: n }, (__, j) => f(i, j)));
	const a = make((i, j) => i + j / 8);
	const b = make((i, j) => i === j ? 2 : 0);
	let c;
	for (let round = 0; round < 5; round++) {
		c = make(() => 0);
		for (let i = 0; i < n; i++) {
			for (let j = 0; j < n; j++) {
				let s = 0;
				for (let k = 0; k < n; k++) {
					s += a[i][k] * b[k][j];
				}
				c[i][j] = s;
			}
		}
	}
	check(c.every((row, i) => row.every((x, j) => x === 2 * (i + j / 8))), true, 'matrix');
	// A function that is compiled for integers meets a double, a string, an object.
	const add = (x, y) => x + y;
	let s = 0;
	for (let i = 0; i < 20000; i++) {
		s = add(s, 1);
	}
	check([s, add(0.5, 0.25), add('a', 1), add(2 ** 31 - 1, 1), add(1, { valueOf: () => 41 })],
		[20000, 0.75, 'a1', 2147483648, 42], 'deoptimized');
	const sieve = new Uint8Array(200001);
	let primes = 0;
	for (let i = 2; i <= 200000; i++) {
		if (!sieve[i]) {
			primes++;
			for (let j = i * 2; j <= 200000; j += i) {
				sieve[j] = 1;
			}
		}
	}
	check(primes, 17984, 'sieve');
	check([0.1 + 0.2, 1e21 + 1, -0 === 0, 5e-324, (0.000001234).toString(), (1234.5678).toFixed(2),
		(255).toString(16), parseFloat('1e-7'), 2 ** 53 + 1, (25).toString(2)],
	[0.30000000000000004, 1e21, true, 5e-324, '0.000001234', '1234.57', 'ff', 1e-7, 9007199254740992, '11001'],
	'numbers as text');
	check([~~-3.7, -7 % 3, -7 >>> 28, 1 << 31, Math.clz32(1), Math.fround(0.1), Math.hypot(3, 4)],
		[-3, -1, 15, -2147483648, 31, 0.10000000149011612, 5], 'operators');
	// The Mandelbrot set, by rows.
	let inside = 0;
	for (let y = 0; y < 120; y++) {
		for (let x = 0; x < 120; x++) {
			const cr = x / 60 - 1.5;
			const ci = y / 60 - 1;
			let zr = 0;
			let zi = 0;
			let i = 0;
			for (; i < 100 && zr * zr + zi * zi < 4; i++) {
				[zr, zi] = [zr * zr - zi * zi + cr, 2 * zr * zi + ci];
			}
			inside += i === 100;
		}
	}
	check(inside, 5575, 'mandelbrot');
}

// ---- objects, garbage, text ----

function objects()
{
	// Trees that live and die.
	const tree = (d) => d ? { l: tree(d - 1), r: tree(d - 1) } : { l: null, r: null };
	const count = (t) => t.l ? 1 + count(t.l) + count(t.r) : 1;
	let nodes = 0;
	const kept = tree(14);
	for (let i = 0; i < 40; i++) {
		nodes += count(tree(9 + i % 4));
	}
	check([nodes, count(kept)], [10 * (1023 + 2047 + 4095 + 8191), 32767], 'trees');
	// Shapes that go from one to many.
	const shapes = [];
	for (let i = 0; i < 4000; i++) {
		const o = { x: i };
		if (i % 2) o.y = 1;
		if (i % 3) o.z = 2;
		o[`p${i % 50}`] = i;
		if (i % 5 === 0) delete o.x;
		shapes.push(o);
	}
	let sum = 0;
	for (const o of shapes) {
		sum += (o.x ?? 0) + (o.y ?? 0) + (o.z ?? 0);
	}
	check(sum, 6400000 + 2000 + 5332, 'shapes');
	const m = new Map();
	for (let i = 0; i < 30000; i++) {
		m.set(`k${i % 5000}`, (m.get(`k${i % 5000}`) ?? 0) + i);
	}
	check([m.size, m.get('k7')], [5000, 7 * 6 + 5000 * 15], 'map');
	const v = Array.from({ length: 30000 }, (_, i) => (i * 7919) % 30011);
	const sorted = [...v].sort((p, q) => p - q);
	check(sorted.every((x, i) => !i || sorted[i - 1] <= x), true, 'sort');
	const data = { a: v.slice(0, 500), b: { c: ['x', null, true, 1.5e300], d: 'é\u{1f600}"\\' } };
	check(JSON.parse(JSON.stringify(data)), data, 'JSON');
	check(JSON.stringify(structuredClone(data)), JSON.stringify(data), 'structuredClone');
	class Base { #x = 1; get x() { return this.#x; } static of(...a) { return new this(...a); } }
	class Derived extends Base { get x() { return super.x + 41; } }
	check([Derived.of().x, Derived.of() instanceof Base], [42, true], 'classes');
	const p = new Proxy({}, { get: (_, k) => `got ${String(k)}` });
	check(p.thing, 'got thing', 'Proxy');
	function* gen(k) { for (let i = 0; i < k; i++) { const x = yield i; if (x) i += x; } }
	check([...gen(1000)].reduce((x, y) => x + y), 499500, 'generators');
	let caught = 0;
	for (let i = 0; i < 3000; i++) {
		try {
			if (i % 3 === 0) throw new RangeError(`e${i}`);
			null.x;
		} catch (e) {
			caught += e instanceof RangeError ? 1 : e instanceof TypeError ? 2 : 0;
		}
	}
	check(caught, 5000, 'exceptions');
	const endless = () => endless() + 1;
	let deep = false;
	try {
		endless();
	} catch (e) {
		deep = e instanceof RangeError;
	}
	check(deep, true, 'stack overflow');
}

function texts()
{
	const words = 'the quick brown fox jumps over the lazy dog '.repeat(500);
	check(words.match(/\b[a-z]*o[a-z]*\b/g).length, 2000, 'RegExp');
	check(words.replace(/(\w+) (\w+)/g, '$2 $1').slice(0, 20), 'quick the fox brown ', 'replace');
	check('2026-11-21'.replace(/(?<y>\d+)-(?<m>\d+)-(?<d>\d+)/, '$<d>.$<m>.$<y>'), '21.11.2026', 'named groups');
	check(/^(?:a+)+$/.test('a'.repeat(25)), true, 'nested quantifiers');
	check('aBc'.replace(/(?<=a)B(?=c)/i, (x) => x.toLowerCase()), 'abc', 'look around');
	check([...'añ\u{1f600}'].length, 3, 'code points');
	check(/\p{Lu}\p{Ll}+/u.exec('élan Ökonom')[0], 'Ökonom', 'Unicode properties');
	check(Buffer.from('añ\u{1f600}').toString('hex'), '61c3b1f09f9880', 'UTF-8');
	let s = '';
	for (let i = 0; i < 20000; i++) {
		s += String.fromCharCode(97 + i % 26);
	}
	check(crypto.createHash('md5').update(s).digest('hex'), crypto.createHash('md5')
		.update('abcdefghijklmnopqrstuvwxyz'.repeat(770).slice(0, 20000)).digest('hex'), 'ropes');
	check(new Intl.NumberFormat('en-US').format(1234567.891), '1,234,567.891', 'Intl');
	check(new Date(Date.UTC(2026, 10, 21, 1, 2, 3)).toISOString(), '2026-11-21T01:02:03.000Z', 'Date');
}

function generated()
{
	// Code that is made, run hot, and dropped.
	let sum = 0;
	for (let i = 0; i < 300; i++) {
		const f = new Function('x', `let s = 0; for (let k = 0; k < 100; k++) s += x * ${i} + k; return s;`);
		sum += f(1) + f(2);
	}
	check(sum, 100 * 3 * (299 * 300 / 2) + 2 * 300 * 4950, 'new Function');
	check(eval('((a, b) => a ** b)(2, 10)'), 1024, 'eval');
}

function bigints()
{
	let f = 1n;
	for (let i = 1n; i <= 300n; i++) {
		f *= i;
	}
	let digits = 0;
	for (const d of f.toString()) {
		digits += Number(d);
	}
	check([f.toString().length, digits], [615, 2466], '300!');
	for (let i = 300n; i > 1n; i--) {
		f /= i;
	}
	check(f, 1n, '300! divided again');
	const power = (b, e, m) => {
		let r = 1n;
		for (; e; e >>= 1n, b = b * b % m) {
			if (e & 1n) r = r * b % m;
		}
		return r;
	};
	const p = 2n ** 127n - 1n;
	check(power(3n, p - 1n, p), 1n, 'Fermat');
	check(BigInt.asIntN(64, 2n ** 63n), -(2n ** 63n), 'asIntN');
}

// ---- WebAssembly: a module by hand ----

function wasm()
{
	// (func (export "fac") (param i64) (result i64)) and a sum over memory, an f64 square root.
	const sized = (...items) => [items.length, ...items];
	const name = (text) => sized(...Buffer.from(text));
	const bytes = new Uint8Array([
		0, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
		1, ...sized(3, 0x60, 1, 0x7e, 1, 0x7e, 0x60, 1, 0x7f, 1, 0x7f, 0x60, 1, 0x7c, 1, 0x7c),
		3, ...sized(3, 0, 1, 2),
		5, ...sized(1, 0, 1),
		7, ...sized(4, ...name('fac'), 0, 0, ...name('sum'), 0, 1, ...name('sqr'), 0, 2, ...name('m'), 2, 0),
		10, ...sized(3,
			...sized(0, 0x20, 0, 0x50, 0x04, 0x7e, 0x42, 1, 0x05, 0x20, 0, 0x20, 0, 0x42, 1, 0x7d,
				0x10, 0, 0x7e, 0x0b, 0x0b),
			...sized(1, 1, 0x7f, 0x03, 0x40, 0x20, 1, 0x20, 0, 0x2d, 0, 0, 0x6a, 0x21, 1, 0x20, 0,
				0x41, 1, 0x6b, 0x22, 0, 0x41, 0, 0x4e, 0x0d, 0, 0x0b, 0x20, 1, 0x0b),
			...sized(0, 0x20, 0, 0x9f, 0x0b)),
	]);
	const { fac, sum, sqr, m } = new WebAssembly.Instance(new WebAssembly.Module(bytes)).exports;
	check(fac(20n), 2432902008176640000n, 'wasm, recursion');
	const memory = new Uint8Array(m.buffer);
	let want = 0;
	for (let i = 0; i < 65536; i++) {
		memory[i] = i * 7;
		want += memory[i];
	}
	let got = 0;
	for (let i = 0; i < 30; i++) {
		got = sum(65535);
	}
	check(got, want, 'wasm, memory');
	check(sqr(2), Math.SQRT2, 'wasm, floats');
	let trapped = '';
	try {
		sum(1 << 20);
	} catch (e) {
		trapped = e.constructor.name;
	}
	check(trapped, 'RuntimeError', 'wasm, out of bounds');
}

// ---- node ----

function library()
{
	const raw = Buffer.from(Array.from({ length: 200000 }, (_, i) => 'abcdefgh'.charCodeAt((i * i) % 8)));
	for (const [there, back] of [['gzipSync', 'gunzipSync'], ['deflateRawSync', 'inflateRawSync'],
		['brotliCompressSync', 'brotliDecompressSync']]) {
		const opts = there[0] === 'b' ? { params: { [zlib.constants.BROTLI_PARAM_QUALITY]: 5 } } : {};
		check(zlib[back](zlib[there](raw, opts)).equals(raw), true, there);
	}
	check(crypto.createHash('sha256').update('abc').digest('hex').slice(0, 16), 'ba7816bf8f01cfea', 'sha256');
	const key = crypto.scryptSync('password', 'salt', 32, { N: 1024 });
	const c = crypto.createCipheriv('aes-256-gcm', key, Buffer.alloc(12));
	const sealed = Buffer.concat([c.update(raw), c.final()]);
	const d = crypto.createDecipheriv('aes-256-gcm', key, Buffer.alloc(12));
	d.setAuthTag(c.getAuthTag());
	check(Buffer.concat([d.update(sealed), d.final()]).equals(raw), true, 'AES-256-GCM');
	const { privateKey, publicKey } = crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' });
	const signature = crypto.sign('sha256', raw, privateKey);
	check(crypto.verify('sha256', raw, publicKey, signature), true, 'ECDSA');
	fs.writeFileSync('/tmp/node.tmp', raw);
	check(fs.readFileSync('/tmp/node.tmp').equals(raw), true, 'files');
	fs.unlinkSync('/tmp/node.tmp');
	check(execFileSync('/bin/sh', ['-c', 'echo $((6 * 7))']).toString(), '42\n', 'a child');
}

async function later()
{
	const order = [];
	setTimeout(() => order.push('timeout'), 1);
	setImmediate(() => order.push('immediate'));
	process.nextTick(() => order.push('tick'));
	await null;
	order.push('micro');
	// On a slow machine both timers are due at once, before what was asked for immediately.
	await new Promise((r) => setTimeout(() => setImmediate(r), 50));
	check([order[0] === 'micro' || order[0] === 'tick', order.length], [true, 4], 'the event loop');
	let sum = 0;
	for (let i = 0; i < 5000; i++) {
		sum += await Promise.resolve(i);
	}
	check(sum, 12497500, 'await');
	// A server and its clients.
	const server = net.createServer((s) => s.on('data', (b) => s.write(b.toString().toUpperCase())));
	await new Promise((r) => server.listen(0, '127.0.0.1', r));
	const talk = (text) => new Promise((resolve, reject) => {
		let got = '';
		const s = net.connect(server.address().port, '127.0.0.1', () => s.write(text));
		s.on('data', (b) => {
			got += b;
			if (got.length === text.length) {
				s.end();
				resolve(got);
			}
		});
		s.on('error', reject);
	});
	const answers = await Promise.all(Array.from({ length: 20 }, (_, i) => talk(`hello ${i}`)));
	check(answers.every((a, i) => a === `HELLO ${i}`), true, 'sockets');
	server.close();
	// Threads: messages, and memory that they share.
	const shared = new Int32Array(new SharedArrayBuffer(64));
	const code = `
		const { parentPort, workerData } = require('worker_threads');
		const a = workerData.shared;
		let h = 0;
		for (let i = 0; i < 200000; i++) {
			h = (Math.imul(h, 31) + i) | 0;
			if (i % 100 === 0) Atomics.add(a, 0, 1);
		}
		Atomics.wait(a, 1, 0);
		parentPort.postMessage([h, workerData.id]);`;
	const workers = Array.from({ length: 4 }, (_, id) => new Worker(code, { eval: true, workerData: { shared, id } }));
	const messages = workers.map((w) => new Promise((resolve, reject) => {
		w.on('message', resolve);
		w.on('error', reject);
	}));
	while (Atomics.load(shared, 0) < 8000) {
		await new Promise((r) => setTimeout(r, 5));
	}
	Atomics.store(shared, 1, 1);
	Atomics.notify(shared, 1);
	const got = await Promise.all(messages);
	let h = 0;
	for (let i = 0; i < 200000; i++) {
		h = (Math.imul(h, 31) + i) | 0;
	}
	check(got.map((m) => m[0]), [h, h, h, h], 'workers');
	check(got.map((m) => m[1]).sort(), [0, 1, 2, 3], 'worker ids');
	check(shared[0], 8000, 'shared memory');
}

for (const part of [scheduling, sheet, numbers, objects, texts, generated, bigints, wasm, library]) {
	const begin = Date.now();
	part();
	console.log(`${part.name}: ${Date.now() - begin} ms`);
}
later().then(end);
