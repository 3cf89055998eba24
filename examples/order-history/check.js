// Tries the order history page as a user would, in Chromium without a window. What a page shows must come by itself:
// nothing here reloads it.
//
// usage: node check.js ADDRESS CHROMIUM
//
// Chromium is spoken to through a pair of pipes, in its DevTools protocol, so that no module is needed for it.

import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const [address, chromium] = process.argv.slice(2);
const patience = 60_000;

// --- the browser

async function startBrowser() {
	const folder = await mkdtemp(join(tmpdir(), 'chromium.'));
	const flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
		'--disable-background-networking', '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage',
		`--user-data-dir=${folder}`, '--remote-debugging-pipe', 'about:blank'];
	const browser = spawn(chromium, flags, { stdio: ['ignore', 'ignore', 'pipe', 'pipe', 'pipe'] });
	const [commands, answers] = browser.stdio.slice(3);
	const waiting = new Map();
	const ended = new Promise((resolve) => browser.on('exit', resolve));
	let errors = '';
	let received = '';
	let last = 0;

	browser.stderr.setEncoding('utf8').on('data', (text) => { errors = (errors + text).slice(-4000); });
	commands.on('error', () => {});
	answers.setEncoding('utf8').on('data', (text) => {
		const messages = (received + text).split('\0');
		received = messages.pop();
		for (const { id, result, error } of messages.map((message) => JSON.parse(message))) {
			const { resolve, reject } = waiting.get(id) ?? {};
			waiting.delete(id);
			if (error) {
				reject?.(new Error(error.message));
			} else {
				resolve?.(result);
			}
		}
	});
	ended.then(() => waiting.forEach(({ reject }) => reject(new Error(`Chromium has ended: ${errors}`))));

	return {
		send: (method, params = {}, sessionId = undefined) => new Promise((resolve, reject) => {
			const id = ++last;
			waiting.set(id, { resolve, reject });
			commands.write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
		}),
		close: async () => {
			browser.kill();
			const insist = setTimeout(() => browser.kill('SIGKILL'), 10_000);
			await ended;
			clearTimeout(insist);
			await rm(folder, { recursive: true, force: true, maxRetries: 5 });
		},
	};
}

async function openPage(browser, url) {
	const { targetId } = await browser.send('Target.createTarget', { url: 'about:blank' });
	const { sessionId } = await browser.send('Target.attachToTarget', { targetId, flatten: true });
	await browser.send('Page.enable', {}, sessionId);
	await browser.send('Page.navigate', { url }, sessionId);

	// What an expression in the page gives.
	async function evaluate(expression) {
		const { result, exceptionDetails } = await browser.send('Runtime.evaluate',
			{ expression, awaitPromise: true, returnByValue: true }, sessionId);
		if (exceptionDetails) {
			throw new Error(`${exceptionDetails.exception?.description ?? exceptionDetails.text}, in ${expression}`);
		}
		return result.value;
	}

	// Waits until an expression in the page gives the value.
	async function becomes(expression, expected, what) {
		const until = Date.now() + patience;
		let value;
		do {
			try {
				value = await evaluate(expression);
			} catch (error) {
				value = error.message;
			}
			if (value === expected) {
				console.log(`ok - ${what}`);
				return;
			}
			await new Promise((resolve) => setTimeout(resolve, 50));
		} while (Date.now() < until);
		const shown = await evaluate('document.body.innerText').catch((error) => error.message);
		throw new Error(`${what}: expected ${JSON.stringify(expected)}, got ${JSON.stringify(value)}; the page shows:\n${shown}`);
	}

	// Fills in a form and presses its button.
	async function submit(form, fields) {
		await evaluate(`(() => {
			const form = document.getElementById(${JSON.stringify(form)});
			for (const [name, value] of Object.entries(${JSON.stringify(fields)})) form.elements[name].value = value;
			form.querySelector('button').click();
		})()`);
	}
	return { evaluate, becomes, submit };
}

// The cells of an order's row, by its place in the table.
const row = (n) => `[...document.querySelectorAll('#orders tr')[${n}]?.cells ?? []].slice(1, 4).map((c) => c.textContent).join(' | ')`;
const heading = "document.getElementById('history').hidden ? '' : document.querySelector('h2').textContent";

async function post(path, body) {
	const response = await fetch(new URL(path, address), { method: 'POST', body: JSON.stringify(body) });
	return { status: response.status, ...(await response.json()) };
}

async function get(path) {
	const response = await fetch(new URL(path, address));
	return { status: response.status, body: await response.json() };
}

function equal(value, expected, what) {
	if (JSON.stringify(value) !== JSON.stringify(expected)) {
		throw new Error(`${what}: expected ${JSON.stringify(expected)}, got ${JSON.stringify(value)}`);
	}
	console.log(`ok - ${what}`);
}

// --- what a user does

async function check(browser) {
	const page = await openPage(browser, address);

	await page.becomes('document.title', 'Order history', 'the page opens');
	await page.submit('new-customer', { name: 'Jane <b>Doe</b>', limit: '100' });
	await page.becomes(heading, 'Jane <b>Doe</b>, credit limit 100.00', 'a new customer appears, with the credit limit');
	const customerId = await page.evaluate("document.getElementById('customer').value");

	await page.submit('new-order', { total: '60.5' });
	await page.becomes(row(0), 'APPROVED | 60.50 | 0.00', 'an order within the limit becomes APPROVED');
	await page.submit('new-order', { total: '39.51' });
	await page.becomes(row(1), 'REJECTED (INSUFFICIENT_CREDIT) | 39.51 | 0.00', 'one beyond it becomes REJECTED');
	await page.submit('new-order', { total: '39.5' });
	await page.becomes(row(2), 'APPROVED | 39.50 | 0.00', 'what was rejected took no credit');

	await page.evaluate("document.querySelector('#orders button').click()");
	await page.becomes(row(0), 'APPROVED | 60.50 | 60.50', 'a payment arrives');
	await page.becomes("document.querySelectorAll('#orders button').length", 2, 'nothing more is to be paid for that order');

	await page.evaluate("document.querySelectorAll('#orders button')[1].click()");
	await page.becomes(row(2), 'CANCELLED | 39.50 | 0.00', 'an order is cancelled');
	await page.submit('new-order', { total: '39.5' });
	await page.becomes(row(3), 'APPROVED | 39.50 | 0.00', 'which gave its credit back');

	// From elsewhere, to the same customer and to another, with a page open on each.
	const other = await post('/customers', { name: 'Ada', creditLimit: { amount: 5 } });
	await page.becomes(`fetch('/customers').then((r) => r.json()).then((all) => all.map(({ name }) => name).join())`,
		'Jane <b>Doe</b>,Ada', 'another customer is known');
	const second = await openPage(browser, address);
	await second.becomes("document.querySelectorAll('#customer option').length", 2, 'another page lists both');
	await second.evaluate(`(() => {
		const select = document.getElementById('customer');
		select.value = '${other.customerId}';
		select.dispatchEvent(new Event('change'));
	})()`);
	await second.becomes(heading, 'Ada, credit limit 5.00', 'and shows her history');
	await page.evaluate('window.refreshed = 0; live.addEventListener("message", () => window.refreshed++); 0');
	const { orderId } = await post('/orders', { customerId: other.customerId, orderTotal: { amount: 4 } });
	await second.becomes(row(0), 'APPROVED | 4.00 | 0.00', "her order appears on her page");
	equal(await page.evaluate('window.refreshed'), 0, "the first customer's page was not refreshed for it");
	await post('/orders', { customerId, orderTotal: { amount: 1 } });
	await page.becomes(row(4), 'REJECTED (INSUFFICIENT_CREDIT) | 1.00 | 0.00', 'an order from elsewhere appears');

	equal(await get(`/customers/${other.customerId}/orderhistory`), { status: 200, body: {
		customerId: String(other.customerId), name: 'Ada', creditLimit: { amount: 5 },
		orders: { [orderId]: { state: 'APPROVED', orderTotal: { amount: 4 }, paid: { amount: 0 } } },
	} }, 'the history as JSON');
	equal((await get('/customers/4711/orderhistory')).status, 404, 'there is no such customer');
	equal((await post('/orders', { customerId, orderTotal: { amount: -1 } })).status, 400, 'an order of less than nothing is refused');
	equal((await post('/orders/4711/cancel', {})).status, 400, 'and so is to cancel one that there is not');
	await page.submit('new-customer', { name: '', limit: '' });
	await page.becomes(heading, 'Jane <b>Doe</b>, credit limit 100.00', 'an empty form does nothing');
}

const browser = await startBrowser();
try {
	await check(browser);
} catch (error) {
	console.log(`not ok - ${error.message}`);
	process.exitCode = 1;
} finally {
	await browser.close();
}
