// The order history page's server: takes orders to the services, and shows what the view database makes of them.
//
//   POST /customers              {"name": "Ada", "creditLimit": {"amount": 100}}      -> {"customerId": 1}
//   POST /orders                 {"customerId": 1, "orderTotal": {"amount": 40}}      -> {"orderId": 1}
//   POST /orders/1/cancel                                                             -> {"orderId": 1}
//   POST /payments               {"orderId": 1, "amount": {"amount": 40}}             -> {"paymentId": 1}
//   GET  /customers                                all customers
//   GET  /customers/1/orderhistory                 one customer with the orders
//   GET  /customers/1/orderhistory/live            the same as server-sent events: now, and after each change
//
// environment: CUSTOMERS, ORDERS, PAYMENTS, VIEW: a connection string each; PORT (0 chooses a free one)

import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import pg from 'pg';

const channels = ['customer_summary', 'order_summary', 'payment_summary'];

// A server that went away closes its idle connections; the pool makes others, so there is nothing to do.
function pool(connectionString) {
	return new pg.Pool({ connectionString, max: 4 }).on('error', () => {});
}

const customers = pool(process.env.CUSTOMERS);
const orders = pool(process.env.ORDERS);
const payments = pool(process.env.PAYMENTS);
const view = pool(process.env.VIEW);

// --- reading

async function orderHistory(customerId) {
	const { rows } = await view.query('SELECT * FROM order_history WHERE customer_id = $1 ORDER BY order_id::bigint',
		[customerId]);
	if (rows.length === 0) {
		return null;
	}
	const history = {
		customerId,
		name: rows[0].name,
		creditLimit: { amount: Number(rows[0].credit_limit) },
		orders: {},
	};
	for (const row of rows.filter((row) => row.order_id !== null)) {
		history.orders[row.order_id] = {
			state: row.state,
			orderTotal: { amount: Number(row.total) },
			rejectionReason: row.rejection_reason ?? undefined,
			paid: { amount: Number(row.paid) },
		};
	}
	return history;
}

// --- being told

// Pages that are open: by customer, each with the responses to write to.
const watched = new Map();

function watch(customerId, response) {
	let page = watched.get(customerId);
	if (page === undefined) {
		page = { responses: new Set(), wanted: false, reading: false };
		watched.set(customerId, page);
	}
	page.responses.add(response);
	response.on('close', () => {
		page.responses.delete(response);
		if (page.responses.size === 0) {
			watched.delete(customerId);
		}
	});
	refresh(customerId);
}

// Reads one customer's history and sends it. One reading at a time: what is asked for meanwhile is one more reading
// afterwards, so that a page never gets an older history after a newer one.
async function refresh(customerId) {
	const page = watched.get(customerId);
	if (page === undefined) {
		return;
	}
	page.wanted = true;
	if (page.reading) {
		return;
	}
	page.reading = true;
	while (page.wanted) {
		page.wanted = false;
		try {
			const message = `data: ${JSON.stringify(await orderHistory(customerId))}\n\n`;
			for (const response of page.responses) {
				response.write(message);
			}
		} catch (error) {
			// Until it can be reached again: listen() then asks for everything.
			console.error(`cannot read the view database: ${error.message}`);
		}
	}
	page.reading = false;
}

// A projection has changed some keys: of customers, or of orders. Only pages of customers concerned are refreshed.
async function told(channel, payload) {
	const { keys } = JSON.parse(payload);
	let concerned = keys;

	if (keys !== null && channel !== 'customer_summary') {
		const { rows } = await view.query('SELECT DISTINCT customer_id FROM order_summary WHERE order_id = ANY ($1)', [keys]);
		concerned = rows.map((row) => row.customer_id);
	}
	// There were too many keys for a notification: any may have changed.
	for (const customerId of concerned ?? [...watched.keys()]) {
		refresh(customerId);
	}
}

// Listens; when the connection is lost, again. Notifications are not kept for who is away, so: first LISTEN, then read.
async function listen() {
	const client = new pg.Client({ connectionString: process.env.VIEW, keepAlive: true });
	const lost = new Promise((resolve) => client.on('error', resolve).on('end', resolve));

	try {
		client.on('notification', ({ channel, payload }) =>
			told(channel, payload).catch(() => [...watched.keys()].forEach(refresh)));
		await client.connect();
		for (const channel of channels) {
			await client.query(`LISTEN ${channel}`);
		}
		[...watched.keys()].forEach(refresh);
		await lost;
	} catch {
		await client.end().catch(() => {});
	}
	setTimeout(listen, 500);
}

// --- HTTP

class Refused extends Error {
	constructor(status, message) {
		super(message);
		this.status = status;
	}
}

async function body(request) {
	let text = '';
	for await (const chunk of request) {
		text += chunk;
		if (text.length > 10_000) {
			throw new Refused(413, 'too long');
		}
	}
	try {
		return JSON.parse(text);
	} catch {
		throw new Refused(400, 'the body is not JSON');
	}
}

async function call(service, sql, values) {
	try {
		return Number((await service.query(sql, values)).rows[0].id);
	} catch (error) {
		// Classes 22 and 23: the service does not like what it was given.
		if (/^2[23]/.test(error.code ?? '')) {
			throw new Refused(400, error.message);
		}
		throw error;
	}
}

const routes = [
	['GET', /^\/$/, async (request, response) => {
		response.writeHead(200, { 'content-type': 'text/html; charset=utf-8' });
		response.end(await readFile(new URL('page.html', import.meta.url)));
	}],
	['POST', /^\/customers$/, async (request) => {
		const { name, creditLimit } = await body(request);
		return {
			customerId: await call(customers, 'SELECT customers.create_customer($1, $2) AS id', [name, creditLimit?.amount]),
		};
	}],
	['POST', /^\/orders$/, async (request) => {
		const { customerId, orderTotal } = await body(request);
		return { orderId: await call(orders, 'SELECT orders.create_order($1, $2) AS id', [customerId, orderTotal?.amount]) };
	}],
	['POST', /^\/orders\/([0-9]+)\/cancel$/, async (request, response, orderId) =>
		({ orderId: await call(orders, 'SELECT orders.cancel_order($1) AS id', [orderId]) })],
	['POST', /^\/payments$/, async (request) => {
		const { orderId, amount } = await body(request);
		return {
			paymentId: await call(payments, 'SELECT payments.receive_payment($1, $2) AS id', [orderId, amount?.amount]),
		};
	}],
	['GET', /^\/customers$/, async () =>
		(await view.query('SELECT customer_id AS "customerId", name FROM customer_summary ORDER BY customer_id::bigint')).rows],
	['GET', /^\/customers\/([0-9]+)\/orderhistory$/, async (request, response, customerId) => {
		const history = await orderHistory(customerId);
		if (history === null) {
			throw new Refused(404, 'there is no such customer, or not yet');
		}
		return history;
	}],
	['GET', /^\/customers\/([0-9]+)\/orderhistory\/live$/, async (request, response, customerId) => {
		response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
		response.flushHeaders();
		watch(customerId, response);
	}],
];

async function answer(request, response) {
	try {
		const { pathname } = new URL(request.url, 'http://localhost');
		for (const [method, pattern, handler] of routes) {
			const match = request.method === method && pattern.exec(pathname);
			if (match) {
				const result = await handler(request, response, ...match.slice(1));
				if (result !== undefined) {
					response.setHeader('content-type', 'application/json');
					response.end(JSON.stringify(result));
				}
				return;
			}
		}
		throw new Refused(404, 'there is no such page');
	} catch (error) {
		if (!(error instanceof Refused)) {
			console.error(error.message);
		}
		if (!response.headersSent) {
			response.writeHead(error.status ?? 503, { 'content-type': 'application/json' });
		}
		response.end(JSON.stringify({ error: error.message }));
	}
}

listen();
const server = createServer(answer).listen(Number(process.env.PORT ?? 8080), '127.0.0.1', () => {
	console.log(`http://127.0.0.1:${server.address().port}/`);
});
